#include "cnixl.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define CNIXL_MEMBER(name, parameters, arguments) int(*name) parameters;
static struct {
  CNIXL_FUNCTIONS(CNIXL_MEMBER)
} table;
#undef CNIXL_MEMBER

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char loaded_path[4096];
static bool is_loaded = false;

static int load_locked(const char *path, char *reason, size_t reason_bytes) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(reason, reason_bytes, "%s", dlerror());
    return -1;
  }
#define CNIXL_SYMBOL(name, parameters, arguments)                              \
  *(void **)(&table.name) = dlsym(library, "nixl_capi_" #name);                \
  if (table.name == NULL) {                                                    \
    snprintf(reason, reason_bytes, "%s has no nixl_capi_%s", path, #name);     \
    memset(&table, 0, sizeof table);                                           \
    dlclose(library);                                                          \
    return -2;                                                                 \
  }
  CNIXL_FUNCTIONS(CNIXL_SYMBOL)
#undef CNIXL_SYMBOL
  snprintf(loaded_path, sizeof loaded_path, "%s", path);
  __atomic_store_n(&is_loaded, true, __ATOMIC_RELEASE);
  return 0;
}

int cnixl_load(const char *path, char *reason, size_t reason_bytes) {
  pthread_mutex_lock(&lock);
  int result = is_loaded ? 0 : load_locked(path, reason, reason_bytes);
  pthread_mutex_unlock(&lock);
  return result;
}

const char *cnixl_loaded_path(void) {
  return __atomic_load_n(&is_loaded, __ATOMIC_ACQUIRE) ? loaded_path : NULL;
}

#define CNIXL_FORWARD(name, parameters, arguments)                             \
  int cnixl_##name parameters {                                                \
    if (!__atomic_load_n(&is_loaded, __ATOMIC_ACQUIRE)) return CNIXL_NOT_LOADED; \
    return table.name arguments;                                               \
  }
CNIXL_FUNCTIONS(CNIXL_FORWARD)
#undef CNIXL_FORWARD
