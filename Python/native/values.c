// Python's values as libremote_g2 takes them.

#include "translator.h"

#include <dlfcn.h>
#include <string.h>

int library_calls_find(library_calls *calls, const char *path) {
  // The same library that is loaded already: its handles are this process's.
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    PyErr_Format(PyExc_OSError, "%s cannot be loaded: %s", path, dlerror());
    return -1;
  }
  struct {
    const char *name;
    void **place;
  } wanted[] = {
      {"rg2_error", (void **)&calls->error},
      {"rg2_scheduler_new_request", (void **)&calls->new_request},
      {"rg2_scheduler_match", (void **)&calls->match},
      {"rg2_scheduler_bind", (void **)&calls->bind},
      {"rg2_scheduler_scheduled", (void **)&calls->scheduled},
      {"rg2_scheduler_plan", (void **)&calls->plan},
      {"rg2_scheduler_absorb", (void **)&calls->absorb},
      {"rg2_scheduler_finished", (void **)&calls->finished},
  };
  for (size_t at = 0; at < sizeof wanted / sizeof *wanted; at++) {
    *wanted[at].place = dlsym(library, wanted[at].name);
    if (!*wanted[at].place) {
      PyErr_Format(PyExc_OSError, "%s has no %s: take both from one release of remote-g2", path, wanted[at].name);
      return -1;
    }
  }
  return 0;
}

void *scratch_room(scratch *scratch, size_t bytes) {
  if (bytes > scratch->capacity) {
    void *larger = PyMem_Realloc(scratch->memory, bytes * 2);
    if (!larger) {
      PyErr_NoMemory();
      return NULL;
    }
    scratch->memory = larger;
    scratch->capacity = bytes * 2;
  }
  return scratch->memory ? scratch->memory : (void *)"";
}

Py_ssize_t joined_hashes(scratch *scratch, PyObject *hashes, Py_ssize_t from, uint32_t *hash_bytes) {
  *hash_bytes = 0;
  Py_ssize_t count = PySequence_Size(hashes), each = 0;
  if (count < 0) return -1;
  for (Py_ssize_t at = from; at < count; at++) {
    PyObject *hash = PySequence_GetItem(hashes, at);
    char *bytes;
    Py_ssize_t length;
    if (!hash || PyBytes_AsStringAndSize(hash, &bytes, &length) < 0) {
      Py_XDECREF(hash);
      return -1;
    }
    if (at == from) each = length;
    if (length != each || length == 0 || length > 1024) {
      PyErr_Format(PyExc_ValueError, "block hash %zd has %zd bytes, the one before %zd", at, length, each);
      Py_DECREF(hash);
      return -1;
    }
    char *room = scratch_room(scratch, (size_t)(count - from) * (size_t)each);
    if (room) memcpy(room + (at - from) * each, bytes, (size_t)each);
    Py_DECREF(hash);
    if (!room) return -1;
  }
  *hash_bytes = (uint32_t)each;
  return count > from ? count - from : 0;
}

Py_ssize_t block_numbers(scratch *scratch, PyObject *blocks, Py_ssize_t from, Py_ssize_t end) {
  Py_ssize_t count = PySequence_Size(blocks);
  if (count < 0) return -1;
  if (end < count) count = end;
  if (count <= from) return 0;
  int32_t *numbers = scratch_room(scratch, (size_t)(count - from) * sizeof *numbers);
  if (!numbers) return -1;
  for (Py_ssize_t at = from; at < count; at++) {
    PyObject *block = PySequence_GetItem(blocks, at);
    long number = block ? PyLong_AsLong(block) : -1;
    Py_XDECREF(block);
    if (number == -1 && PyErr_Occurred()) return -1;
    if (number < 0 || number > INT32_MAX) {
      PyErr_Format(PyExc_ValueError, "there is no block %ld", number);
      return -1;
    }
    numbers[at - from] = (int32_t)number;
  }
  return count - from;
}

long long number_of(PyObject *object, PyObject *name) {
  PyObject *value = PyObject_GetAttr(object, name);
  if (!value) return -1;
  long long number = PyLong_AsLongLong(value);
  Py_DECREF(value);
  if (number < 0 && !PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%U is negative", name);
  return number;
}
