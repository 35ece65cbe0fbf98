#ifndef CMPI_H
#define CMPI_H

// Open MPI, found at run time, so that the package builds and serves where it is not installed. Open
// MPI's handles are addresses of objects that its library exports, so no header is needed.
//
// One thread at a time may call; every function but cmpi_load needs a loaded library.

#include <stddef.h>
#include <stdint.h>

typedef void *cmpi_request;

// Loads the library: `path`, or the system's. Returns NULL, or the reason in words that live as long
// as the process.
const char *cmpi_load(const char *path);

// What the library calls itself, in words that live as long as the process. May be called before
// cmpi_init.
const char *cmpi_version(void);

// Joins the group that mpirun started; a process started alone is a group of one. Returns 0 or the
// library's error.
int cmpi_init(int *rank, int *count);

// Starts a broadcast of `bytes` bytes from rank 0.
int cmpi_ibcast(void *buffer, int bytes, cmpi_request *request);

// Starts a gather of `bytes` bytes from every rank to rank 0.
int cmpi_igather(const void *part, int bytes, void *all, cmpi_request *request);

// Starts a gather of parts of different sizes. Rank 0 gives the sizes and places; the others NULL.
int cmpi_igatherv(const void *part, int bytes, void *all, const int *counts, const int *places,
                  cmpi_request *request);

// Starts a gather of `bytes` bytes from every rank to every rank.
int cmpi_iallgather(const void *part, int bytes, void *all, cmpi_request *request);

// Drives progress. Sets `done` when the request has ended, and then forgets it.
int cmpi_test(cmpi_request *request, int *done);

// Leaves the group. Every rank must.
int cmpi_finalize(void);

#endif
