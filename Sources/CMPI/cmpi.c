#define _GNU_SOURCE
#include "cmpi.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREAD_SERIALIZED = 2 };

static struct {
  int (*init_thread)(int *, char ***, int, int *);
  int (*comm_rank)(void *, int *);
  int (*comm_size)(void *, int *);
  int (*ibcast)(void *, int, void *, int, void *, cmpi_request *);
  int (*igather)(const void *, int, void *, void *, int, void *, int, void *, cmpi_request *);
  int (*igatherv)(const void *, int, void *, void *, const int *, const int *, void *, int, void *,
                  cmpi_request *);
  int (*iallgather)(const void *, int, void *, void *, int, void *, void *, cmpi_request *);
  int (*test)(cmpi_request *, int *, void *);
  int (*finalize)(void);
  int (*version)(char *, int *);
  void *world;
  void *byte;
} mpi;

static char why[512];

static const char *lookup(void *library) {
  const struct {
    const char *name;
    void **place;
  } symbols[] = {
      {"MPI_Init_thread", (void **)&mpi.init_thread}, {"MPI_Comm_rank", (void **)&mpi.comm_rank},
      {"MPI_Comm_size", (void **)&mpi.comm_size},     {"MPI_Ibcast", (void **)&mpi.ibcast},
      {"MPI_Igather", (void **)&mpi.igather},         {"MPI_Igatherv", (void **)&mpi.igatherv},
      {"MPI_Iallgather", (void **)&mpi.iallgather},   {"MPI_Test", (void **)&mpi.test},
      {"MPI_Finalize", (void **)&mpi.finalize},       {"ompi_mpi_comm_world", &mpi.world},
      {"ompi_mpi_byte", &mpi.byte},
      {"MPI_Get_library_version", (void **)&mpi.version},
  };
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    *symbols[i].place = dlsym(library, symbols[i].name);
    if (*symbols[i].place == NULL) {
      snprintf(why, sizeof why, "it has no %s, so it is not Open MPI 4", symbols[i].name);
      return why;
    }
  }
  return NULL;
}

const char *cmpi_load(const char *path) {
  if (mpi.world != NULL && mpi.version != NULL) return NULL;
  // NIXL brings a UCX of its own, and two in one process crash: Open MPI must leave its own alone.
  setenv("OMPI_MCA_pml", "ob1", 1);
  setenv("OMPI_MCA_osc", "^ucx", 1);
  setenv("OMPI_MCA_btl", "self,vader", 0);
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
  // Its plug-ins look its symbols up globally.
  void *library = dlopen(path != NULL ? path : "libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
  if (library == NULL) {
    snprintf(why, sizeof why, "%s", dlerror());
    return why;
  }
  return lookup(library);
}

const char *cmpi_version(void) {
  // MPI_MAX_LIBRARY_VERSION_STRING of Open MPI is 256.
  static char words[512];
  int length = 0;
  if (mpi.version(words, &length) != 0) return "unknown";
  // After the first comma it tells how it was packaged.
  for (char *end = words; *end != 0; end++)
    if (*end == ',') *end = 0;
  return words;
}

int cmpi_init(int *rank, int *count) {
  int granted = 0;
  int error = mpi.init_thread(NULL, NULL, THREAD_SERIALIZED, &granted);
  if (error == 0 && granted < THREAD_SERIALIZED) return -1;
  if (error == 0) error = mpi.comm_rank(mpi.world, rank);
  if (error == 0) error = mpi.comm_size(mpi.world, count);
  return error;
}

int cmpi_ibcast(void *buffer, int bytes, cmpi_request *request) {
  return mpi.ibcast(buffer, bytes, mpi.byte, 0, mpi.world, request);
}

int cmpi_igather(const void *part, int bytes, void *all, cmpi_request *request) {
  return mpi.igather(part, bytes, mpi.byte, all, bytes, mpi.byte, 0, mpi.world, request);
}

int cmpi_igatherv(const void *part, int bytes, void *all, const int *counts, const int *places,
                  cmpi_request *request) {
  return mpi.igatherv(part, bytes, mpi.byte, all, counts, places, mpi.byte, 0, mpi.world, request);
}

int cmpi_iallgather(const void *part, int bytes, void *all, cmpi_request *request) {
  return mpi.iallgather(part, bytes, mpi.byte, all, bytes, mpi.byte, mpi.world, request);
}

int cmpi_test(cmpi_request *request, int *done) { return mpi.test(request, done, NULL); }

int cmpi_finalize(void) { return mpi.finalize(); }
