#ifndef REMOTE_G2_TRANSLATOR_H
#define REMOTE_G2_TRANSLATOR_H

// What the files of this module share. It is built once for every Python from 3.10 on (the stable interface).

#define Py_LIMITED_API 0x030A0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "remote_g2.h"

// Those functions of libremote_g2 that a scheduler calls in every step. Each is over in microseconds, so none lets
// go of the interpreter's lock: whoever does may get it back only milliseconds later.
typedef struct {
  __typeof__(rg2_error) *error;
  __typeof__(rg2_scheduler_new_request) *new_request;
  __typeof__(rg2_scheduler_match) *match;
  __typeof__(rg2_scheduler_bind) *bind;
  __typeof__(rg2_scheduler_scheduled) *scheduled;
  __typeof__(rg2_scheduler_plan) *plan;
  __typeof__(rg2_scheduler_absorb) *absorb;
  __typeof__(rg2_scheduler_finished) *finished;
} library_calls;

// Finds them in the library at `path`. 0, or -1 with an exception.
int library_calls_find(library_calls *calls, const char *path);

// Names of attributes of the engine's objects.
#define NAMES(name)                                                                                      \
  name(request_id) name(block_hashes) name(num_tokens) name(skip_reading_prefix_cache)                   \
  name(lora_request) name(mm_features) name(prompt_embeds) name(get_block_ids) name(scheduled_new_reqs)  \
  name(scheduled_cached_reqs) name(num_scheduled_tokens) name(total_num_scheduled_tokens) name(req_id)   \
  name(num_computed_tokens) name(block_ids) name(resumed_req_ids) name(req_ids) name(new_block_ids)

typedef struct {
#define FIELD(name) PyObject *name;
  NAMES(FIELD)
#undef FIELD
} attribute_names;

extern attribute_names names;

// Memory that grows with what is put into it, and stays for the next call.
typedef struct {
  void *memory;
  size_t capacity;
} scratch;

void *scratch_room(scratch *scratch, size_t bytes);

// Of a sequence of `bytes` of one length: those from `from` on, one after another. Their number, or -1.
Py_ssize_t joined_hashes(scratch *scratch, PyObject *hashes, Py_ssize_t from, uint32_t *hash_bytes);

// Of a sequence of integers: those from `from` on and before `end`, as many as there are. Their number, or -1.
Py_ssize_t block_numbers(scratch *scratch, PyObject *blocks, Py_ssize_t from, Py_ssize_t end);

// An attribute that is a number of tokens or of blocks; -1 with an exception where it is not.
long long number_of(PyObject *object, PyObject *name);

#endif
