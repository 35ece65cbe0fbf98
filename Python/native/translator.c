// remote_g2_native: a scheduler's calls, translated for libremote_g2 with no line of Python.
//
// A step of decoding follows a forward pass, which has left nothing in the processor's caches: there Python for a
// request costs many times what it costs alone. Nothing is decided here.

#include "translator.h"

#include <stddef.h>

attribute_names names;

// A request that the library was told of.
typedef struct {
  uint64_t number;
  // The engine's: its block hashes grow while it is computed.
  PyObject *request;
  PyObject *id;
  // Block hashes that were told so far.
  Py_ssize_t told;
  // Leading blocks that the engine had when it last asked.
  uint32_t local;
  // Whether the library hears of every step of it.
  char is_followed;
} entry;

typedef struct {
  PyObject_HEAD
  library_calls calls;
  void *handle;
  PyObject *failure;
  // Request id: a capsule with its entry.
  PyObject *entries;
  // Loads of the step that is being planned: number, request id.
  PyObject *loading;
  uint64_t next;
  uint32_t tokens_per_block;
  scratch hashes, numbers;
  // Whether something was bound since the last plan, and whether the library was told anything.
  char has_bound, has_told;
  // Its weights may be others than those that blocks in the engine's own cache were computed with.
  char is_renewed;
} translator;

static void entry_free(PyObject *capsule) {
  entry *found = PyCapsule_GetPointer(capsule, NULL);
  if (!found) return;
  Py_XDECREF(found->request);
  Py_XDECREF(found->id);
  PyMem_Free(found);
}

// NULL without an exception: the library was not told of it.
static entry *entry_of(translator *self, PyObject *id) {
  PyObject *capsule = PyDict_GetItemWithError(self->entries, id);
  return capsule ? PyCapsule_GetPointer(capsule, NULL) : NULL;
}

static entry *entry_of_request(translator *self, PyObject *request) {
  PyObject *id = PyObject_GetAttr(request, names.request_id);
  if (!id) return NULL;
  entry *found = entry_of(self, id);
  Py_DECREF(id);
  return found;
}

static int checked(translator *self, int status) {
  if (status < 0) PyErr_SetString(self->failure, self->calls.error());
  return status;
}

// Whether an attribute is there and true. -1: an exception.
static int has(PyObject *object, PyObject *name) {
  PyObject *value = PyObject_GetAttr(object, name);
  if (!value) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return -1;
    PyErr_Clear();
    return 0;
  }
  int is = value == Py_None ? 0 : PyObject_IsTrue(value);
  Py_DECREF(value);
  return is;
}

// Whether the content of its blocks is in its block hashes by content, and its prefix may be read.
static int is_shared(PyObject *request) {
  PyObject *unfit[] = {names.skip_reading_prefix_cache, names.lora_request, names.mm_features};
  for (size_t at = 0; at < sizeof unfit / sizeof *unfit; at++) {
    int found = has(request, unfit[at]);
    if (found) return found < 0 ? -1 : 0;
  }
  // A tensor has no truth.
  PyObject *embeds = PyObject_GetAttr(request, names.prompt_embeds);
  if (!embeds) {
    if (!PyErr_ExceptionMatches(PyExc_AttributeError)) return -1;
    PyErr_Clear();
    return 1;
  }
  int is = embeds == Py_None;
  Py_DECREF(embeds);
  return is;
}

static PyObject *new_request(PyObject *object, PyObject *request) {
  translator *self = (translator *)object;
  int shared = is_shared(request);
  if (shared < 0) return NULL;
  if (!shared) Py_RETURN_NONE;
  entry *made = PyMem_Calloc(1, sizeof *made);
  PyObject *capsule = made ? PyCapsule_New(made, NULL, entry_free) : NULL;
  if (!capsule) {
    if (!made) return PyErr_NoMemory();
    PyMem_Free(made);
    return NULL;
  }
  Py_INCREF(request);
  made->request = request;
  made->number = self->next++;
  made->id = PyObject_GetAttr(request, names.request_id);
  PyObject *hashes = made->id ? PyObject_GetAttr(request, names.block_hashes) : NULL;
  uint32_t each;
  made->told = hashes ? joined_hashes(&self->hashes, hashes, 0, &each) : -1;
  Py_XDECREF(hashes);
  int status = made->told < 0 ? -1 : PyDict_SetItem(self->entries, made->id, capsule);
  if (status == 0) {
    self->has_told = 1;
    status = checked(self, self->calls.new_request(
      self->handle, made->number, self->hashes.memory, (uint32_t)made->told, each));
  }
  Py_DECREF(capsule);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *match(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
  translator *self = (translator *)object;
  if (count != 2) return PyErr_Format(PyExc_TypeError, "match takes a request and a number of tokens");
  PyObject *request = arguments[0];
  long long computed = PyLong_AsLongLong(arguments[1]);
  if (computed < 0) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%lld tokens", computed);
  entry *found = entry_of_request(self, request);
  if (!found) return PyErr_Occurred() ? NULL : Py_BuildValue("iO", 0, Py_False);
  long long tokens = number_of(request, names.num_tokens);
  if (tokens < 0) return NULL;
  self->has_told = 1;
  found->local = (uint32_t)(computed / self->tokens_per_block);
  uint32_t most = tokens > 0 ? (uint32_t)((tokens - 1) / self->tokens_per_block) : 0, blocks = 0;
  int answer = checked(self, self->calls.match(self->handle, found->number, found->local, most, &blocks));
  if (answer < 0) return NULL;
  if (answer == RG2_PENDING) return Py_BuildValue("OO", Py_None, Py_False);
  return Py_BuildValue(
    "LO", (long long)blocks * self->tokens_per_block, answer == RG2_READY ? Py_True : Py_False);
}

static PyObject *bind(PyObject *object, PyObject *const *arguments, Py_ssize_t argument_count) {
  translator *self = (translator *)object;
  if (argument_count != 3)
    return PyErr_Format(PyExc_TypeError, "bind takes a request, its blocks and a number of tokens");
  PyObject *request = arguments[0], *blocks = arguments[1];
  long long external = PyLong_AsLongLong(arguments[2]);
  if (external < 0) return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "%lld tokens", external);
  // One that loads nothing is told as scheduled, where it is told at all.
  if (!external && !self->is_renewed) Py_RETURN_NONE;
  entry *found = entry_of_request(self, request);
  if (!found) {
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
  }
  Py_ssize_t count = 0;
  if (external) {
    Py_ssize_t end = found->local + external / self->tokens_per_block;
    PyObject *ids = PyObject_CallMethodObjArgs(blocks, names.get_block_ids, NULL);
    PyObject *first = ids ? PySequence_GetItem(ids, 0) : NULL;
    count = first ? block_numbers(&self->numbers, first, found->local, end) : -1;
    Py_XDECREF(first);
    Py_XDECREF(ids);
    PyObject *number = count < 0 ? NULL : PyLong_FromUnsignedLongLong(found->number);
    int status = number ? PyDict_SetItem(self->loading, number, found->id) : -1;
    Py_XDECREF(number);
    if (status < 0) return NULL;
    self->has_bound = 1;
  }
  self->has_told = 1;
  if (checked(self, self->calls.bind(
        self->handle, found->number, found->local, self->numbers.memory, (uint32_t)count)) < 0)
    return NULL;
  Py_RETURN_NONE;
}

// -1 with an exception, where a number is negative and nobody has said why.
static int negative(void) {
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a number of tokens is negative");
  return -1;
}

// One request of the step that is planned. `groups` are its blocks by group, or None.
static int scheduled(
  translator *self, PyObject *id, long long computed, PyObject *tokens, PyObject *groups, int is_whole
) {
  entry *found = entry_of(self, id);
  if (!found) return PyErr_Occurred() ? -1 : 0;
  // What it found in the engine's own cache may rest on older weights, and so what follows it.
  if (self->is_renewed && found->local) return 0;
  PyObject *hashes = PyObject_GetAttr(found->request, names.block_hashes);
  uint32_t each;
  Py_ssize_t hash_count = hashes ? joined_hashes(&self->hashes, hashes, found->told, &each) : -1;
  Py_XDECREF(hashes);
  if (hash_count < 0) return -1;
  Py_ssize_t block_count = 0;
  int has_groups = groups == Py_None ? 0 : PyObject_IsTrue(groups);
  if (has_groups < 0) return -1;
  if (has_groups) {
    PyObject *first = PySequence_GetItem(groups, 0);
    block_count = first ? block_numbers(&self->numbers, first, 0, PY_SSIZE_T_MAX) : -1;
    Py_XDECREF(first);
    if (block_count < 0) return -1;
  }
  if (!hash_count && !block_count && !is_whole && !found->is_followed) return 0;
  PyObject *count = PyObject_GetItem(tokens, id);
  long long now = count ? PyLong_AsLongLong(count) : -1;
  Py_XDECREF(count);
  if (now < 0) return negative();
  found->told += hash_count;
  self->has_told = 1;
  int answer = checked(self, self->calls.scheduled(
    self->handle, found->number, (uint32_t)computed, (uint32_t)now, self->hashes.memory,
    (uint32_t)hash_count, each, self->numbers.memory, (uint32_t)block_count, is_whole));
  if (answer < 0) return -1;
  found->is_followed = answer == 1;
  return 0;
}

static int scheduled_new(translator *self, PyObject *output, PyObject *tokens) {
  PyObject *all = PyObject_GetAttr(output, names.scheduled_new_reqs);
  Py_ssize_t count = all ? PySequence_Size(all) : -1;
  int status = count < 0 ? -1 : 0;
  for (Py_ssize_t at = 0; at < count && status == 0; at++) {
    PyObject *one = PySequence_GetItem(all, at);
    PyObject *id = one ? PyObject_GetAttr(one, names.req_id) : NULL;
    PyObject *groups = id ? PyObject_GetAttr(one, names.block_ids) : NULL;
    long long computed = groups ? number_of(one, names.num_computed_tokens) : -1;
    status = computed < 0 ? -1 : scheduled(self, id, computed, tokens, groups, 1);
    Py_XDECREF(groups);
    Py_XDECREF(id);
    Py_XDECREF(one);
  }
  Py_XDECREF(all);
  return status;
}

static int scheduled_again(translator *self, PyObject *output, PyObject *tokens) {
  PyObject *all = PyObject_GetAttr(output, names.scheduled_cached_reqs);
  PyObject *ids = all ? PyObject_GetAttr(all, names.req_ids) : NULL;
  PyObject *resumed = ids ? PyObject_GetAttr(all, names.resumed_req_ids) : NULL;
  PyObject *computed = resumed ? PyObject_GetAttr(all, names.num_computed_tokens) : NULL;
  PyObject *blocks = computed ? PyObject_GetAttr(all, names.new_block_ids) : NULL;
  Py_ssize_t count = blocks ? PySequence_Size(ids) : -1;
  int status = count < 0 ? -1 : 0;
  for (Py_ssize_t at = 0; at < count && status == 0; at++) {
    PyObject *id = PySequence_GetItem(ids, at);
    PyObject *groups = id ? PySequence_GetItem(blocks, at) : NULL;
    PyObject *before = groups ? PySequence_GetItem(computed, at) : NULL;
    long long number = before ? PyLong_AsLongLong(before) : -1;
    int is_whole = number < 0 ? negative() : PySequence_Contains(resumed, id);
    status = is_whole < 0 ? -1 : scheduled(self, id, number, tokens, groups, is_whole);
    Py_XDECREF(before);
    Py_XDECREF(groups);
    Py_XDECREF(id);
  }
  Py_XDECREF(blocks);
  Py_XDECREF(computed);
  Py_XDECREF(resumed);
  Py_XDECREF(ids);
  Py_XDECREF(all);
  return status;
}

static PyObject *plan(PyObject *object, PyObject *output) {
  translator *self = (translator *)object;
  PyObject *tokens = PyObject_GetAttr(output, names.num_scheduled_tokens);
  int status = !tokens || scheduled_new(self, output, tokens) < 0 || scheduled_again(self, output, tokens) < 0;
  Py_XDECREF(tokens);
  long long total = status ? -1 : number_of(output, names.total_num_scheduled_tokens);
  if (total < 0) return NULL;
  self->has_bound = 0;
  // Most steps of decoding bring nothing that the library would order anything for.
  if (!self->has_told && total) Py_RETURN_NONE;
  self->has_told = 0;
  size_t length = 0;
  const uint8_t *bytes = self->calls.plan(self->handle, (uint32_t)total, &length);
  if (!bytes) {
    checked(self, RG2_INVALID);
    return NULL;
  }
  PyObject *fresh = PyDict_New();
  if (!fresh) return NULL;
  PyObject *loading = self->loading;
  self->loading = fresh;
  // Not by a format with "#": which function that is depends on the headers' version.
  PyObject *told = PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)length);
  PyObject *found = told ? PyTuple_Pack(2, told, loading) : NULL;
  Py_XDECREF(told);
  Py_DECREF(loading);
  return found;
}

static PyObject *absorb(PyObject *object, PyObject *reports) {
  translator *self = (translator *)object;
  // It holds them until the library has read them, whatever they came in.
  PyObject *all = PySequence_Tuple(reports);
  if (!all) return NULL;
  Py_ssize_t count = PyTuple_Size(all);
  const uint8_t *places[1024];
  size_t lengths[1024];
  int status = 0;
  if (count > 1024) {
    PyErr_Format(PyExc_ValueError, "%zd reports of one step", count);
    status = -1;
  }
  for (Py_ssize_t at = 0; at < count && status == 0; at++) {
    char *bytes;
    Py_ssize_t length;
    status = PyBytes_AsStringAndSize(PyTuple_GetItem(all, at), &bytes, &length);
    if (status < 0) break;
    places[at] = (const uint8_t *)bytes;
    lengths[at] = (size_t)length;
  }
  if (status == 0)
    status = checked(self, self->calls.absorb(self->handle, places, lengths, (uint32_t)count));
  Py_DECREF(all);
  if (status < 0) return NULL;
  Py_RETURN_NONE;
}

static PyObject *finished(PyObject *object, PyObject *request) {
  translator *self = (translator *)object;
  entry *found = entry_of_request(self, request);
  if (!found) {
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
  }
  uint64_t number = found->number;
  PyObject *id = found->id;
  Py_INCREF(id);
  int status = PyDict_DelItem(self->entries, id);
  Py_DECREF(id);
  self->has_told = 1;
  if (status < 0 || checked(self, self->calls.finished(self->handle, number)) < 0) return NULL;
  Py_RETURN_NONE;
}

// The library's handle is about to be closed: it refuses every call from now on.
static PyObject *forget(PyObject *object, PyObject *Py_UNUSED(ignored)) {
  ((translator *)object)->handle = NULL;
  Py_RETURN_NONE;
}

static PyObject *has_bound(PyObject *object, void *Py_UNUSED(closure)) {
  return PyBool_FromLong(((translator *)object)->has_bound);
}

static PyObject *next_number(PyObject *object, void *Py_UNUSED(closure)) {
  return PyLong_FromUnsignedLongLong(((translator *)object)->next);
}

static PyObject *translator_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
  static char *accepted[] = {"path", "handle", "tokens_per_block", "failure", "is_renewed", "next_number", NULL};
  const char *path;
  unsigned long long handle, next;
  unsigned int tokens_per_block;
  PyObject *failure;
  int is_renewed;
  if (!PyArg_ParseTupleAndKeywords(
        arguments, keywords, "sKIOpK", accepted, &path, &handle, &tokens_per_block, &failure, &is_renewed, &next))
    return NULL;
  if (!handle || !tokens_per_block || tokens_per_block > 1 << 20)
    return PyErr_Format(PyExc_ValueError, "no scheduler half, or blocks of %u tokens", tokens_per_block);
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  translator *self = (translator *)make(type, 0);
  if (!self) return NULL;
  self->handle = (void *)(uintptr_t)handle;
  self->tokens_per_block = tokens_per_block;
  self->is_renewed = (char)is_renewed;
  self->next = next;
  self->has_told = 1;
  Py_INCREF(failure);
  self->failure = failure;
  self->entries = PyDict_New();
  self->loading = PyDict_New();
  if (!self->entries || !self->loading || library_calls_find(&self->calls, path) < 0) {
    Py_DECREF(self);
    return NULL;
  }
  return (PyObject *)self;
}

static void translator_free(PyObject *object) {
  translator *self = (translator *)object;
  PyTypeObject *type = Py_TYPE(object);
  Py_XDECREF(self->failure);
  Py_XDECREF(self->entries);
  Py_XDECREF(self->loading);
  PyMem_Free(self->hashes.memory);
  PyMem_Free(self->numbers.memory);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyMethodDef methods[] = {
  {"new_request", new_request, METH_O, "A request arrived."},
  {"match", (PyCFunction)(void (*)(void))match, METH_FASTCALL, "What can be loaded: (tokens or None, whether asynchronously)."},
  {"bind", (PyCFunction)(void (*)(void))bind, METH_FASTCALL, "The request has blocks for so many tokens that are loaded."},
  {"plan", plan, METH_O, "The step's plan: (bytes, requests that load by number), or None where there is none."},
  {"absorb", absorb, METH_O, "What all ranks reported of one step."},
  {"finished", finished, METH_O, "The request has left the engine."},
  {"forget", forget, METH_NOARGS, "The handle is about to be closed: every call is refused from now on."},
  {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
  {"has_bound", has_bound, NULL, "Whether something was bound since the last plan.", NULL},
  {"next_number", next_number, NULL, "Of the next request.", NULL},
  {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
  {Py_tp_new, translator_new},
  {Py_tp_dealloc, translator_free},
  {Py_tp_methods, methods},
  {Py_tp_getset, properties},
  {Py_tp_doc, "A scheduler's calls for an rg2_scheduler. One thread uses it, and not after the handle is closed."},
  {0, NULL},
};

static PyType_Spec specification = {
  .name = "remote_g2_native.Translator",
  .basicsize = sizeof(translator),
  .flags = Py_TPFLAGS_DEFAULT,
  .slots = slots,
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT,
  .m_name = "remote_g2_native",
  .m_doc = "The scheduler half of remote_g2.vllm, in C.",
  .m_size = -1,
};

PyMODINIT_FUNC PyInit_remote_g2_native(void) {
#define INTERN(name) \
  if (!(names.name = PyUnicode_InternFromString(#name))) return NULL;
  NAMES(INTERN)
#undef INTERN
  PyObject *module = PyModule_Create(&definition);
  PyObject *type = module ? PyType_FromSpec(&specification) : NULL;
  // The module takes the type only where it succeeds.
  if (!type || PyModule_AddIntConstant(module, "ABI_VERSION", RG2_ABI_VERSION) < 0 ||
      PyModule_AddObject(module, "Translator", type) < 0) {
    Py_XDECREF(type);
    Py_XDECREF(module);
    return NULL;
  }
  return module;
}
