#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "ctls.h"

static ctls_library loaded;
static int is_loaded;
static char why[ctls_reason_max];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
  // Its own names stay its own: other modules bring a TLS library inside.
  void *crypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
  void *ssl = crypto != NULL ? dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL) : NULL;
  if (ssl == NULL) {
    const char *error = dlerror();
    snprintf(why, sizeof why, "%s", error != NULL ? error : "libssl.so.3 cannot be loaded");
    return;
  }
#define CTLS_LOAD(name)                                                                          \
  loaded.name##_ = (__typeof__(loaded.name##_))dlsym(ssl, #name);                                \
  if (loaded.name##_ == NULL) loaded.name##_ = (__typeof__(loaded.name##_))dlsym(crypto, #name); \
  if (loaded.name##_ == NULL) {                                                                  \
    snprintf(why, sizeof why, "the OpenSSL that is installed lacks %s", #name);                  \
    return;                                                                                      \
  }
  CTLS_FUNCTIONS(CTLS_LOAD)
#undef CTLS_LOAD
  is_loaded = 1;
}

const ctls_library *ctls_library_get(void) {
  pthread_once(&once, load);
  return is_loaded ? &loaded : NULL;
}

const char *ctls_unavailable(void) { return ctls_library_get() != NULL ? NULL : why; }
