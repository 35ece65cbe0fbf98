// The device part for NVIDIA GPUs, over the driver API, loaded when it is first asked for: neither its headers nor
// its library are needed to build or run anything else.
#include "cuda_device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int result_t;
typedef int device_t;
typedef void *context_t;
typedef void *stream_t;
typedef void *event_t;
typedef uint64_t address_t;

// As the driver's CUDA_MEMCPY2D.
typedef struct {
  size_t source_x, source_y;
  unsigned source_kind;
  const void *source_host;
  address_t source_device;
  void *source_array;
  size_t source_pitch;
  size_t target_x, target_y;
  unsigned target_kind;
  void *target_host;
  address_t target_device;
  void *target_array;
  size_t target_pitch;
  size_t width, height;
} copy2d_t;

enum { KIND_HOST = 1, KIND_DEVICE = 2 };
enum { REGISTER_PORTABLE = 1, REGISTER_READ_ONLY = 8 };
enum { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2 };

typedef struct {
  rg2_device device;  // first: a pointer to it is one to all of this
  device_t ordinal;
  context_t primary;
  stream_t to_device, from_device;
  event_t done, computed;
  result_t (*push)(context_t);
  result_t (*pop)(context_t *);
  result_t (*release)(device_t);
  result_t (*host_register)(void *, size_t, unsigned);
  result_t (*host_unregister)(void *);
  result_t (*copy2d)(const copy2d_t *, stream_t);
  result_t (*event_record)(event_t, stream_t);
  result_t (*event_synchronize)(event_t);
  result_t (*event_destroy)(event_t);
  result_t (*stream_synchronize)(stream_t);
  result_t (*stream_wait)(stream_t, event_t, unsigned);
  result_t (*stream_destroy)(stream_t);
} cuda_t;

static int32_t map(void *context, void *base, uint64_t bytes, int32_t is_read_only) {
  cuda_t *cuda = context;
  context_t old;
  if (cuda->push(cuda->primary)) return -1;
  unsigned flags = REGISTER_PORTABLE | (is_read_only ? REGISTER_READ_ONLY : 0);
  result_t result = cuda->host_register(base, bytes, flags);
  cuda->pop(&old);
  return result;
}

static void unmap(void *context, void *base) {
  cuda_t *cuda = context;
  context_t old;
  if (cuda->push(cuda->primary)) return;
  cuda->host_unregister(base);
  cuda->pop(&old);
}

static int32_t copy(void *context, const rg2_copy *copies, uint32_t count, int32_t is_to_device) {
  cuda_t *cuda = context;
  context_t old;
  result_t result = cuda->push(cuda->primary);
  if (result) return result;
  stream_t stream = is_to_device ? cuda->to_device : cuda->from_device;
  // The pages may have been another request's, whose last kernel still writes them.
  if (is_to_device) {
    result = cuda->event_record(cuda->computed, cuda->from_device);
    if (!result) result = cuda->stream_wait(cuda->to_device, cuda->computed, 0);
  }
  for (uint32_t i = 0; i < count && !result; i++) {
    copy2d_t order;
    memset(&order, 0, sizeof order);
    order.width = copies[i].bytes;
    order.height = copies[i].rows;
    // Of one row the distance to the next means nothing; the driver would check it.
    int is_row = copies[i].rows == 1;
    size_t device_stride = is_row ? copies[i].bytes : copies[i].device_stride;
    size_t host_stride = is_row ? copies[i].bytes : copies[i].host_stride;
    if (is_to_device) {
      order.source_kind = KIND_HOST;
      order.source_host = copies[i].host;
      order.source_pitch = host_stride;
      order.target_kind = KIND_DEVICE;
      order.target_device = (address_t)(uintptr_t)copies[i].device;
      order.target_pitch = device_stride;
    } else {
      order.source_kind = KIND_DEVICE;
      order.source_device = (address_t)(uintptr_t)copies[i].device;
      order.source_pitch = device_stride;
      order.target_kind = KIND_HOST;
      order.target_host = copies[i].host;
      order.target_pitch = host_stride;
    }
    result = cuda->copy2d(&order, stream);
  }
  // What was begun ends before anybody is told anything, well or not.
  result_t recorded = cuda->event_record(cuda->done, stream);
  result_t ended = recorded ? cuda->stream_synchronize(stream) : cuda->event_synchronize(cuda->done);
  cuda->pop(&old);
  return result ? result : recorded ? recorded : ended;
}

static void *fail(char *reason, size_t bytes, const char *what, result_t result) {
  snprintf(reason, bytes, "%s (CUDA result %d)", what, result);
  return NULL;
}

rg2_device *cremoteg2_cuda_open(int32_t ordinal, void *stream, char *reason, size_t reason_bytes) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!driver) {
    snprintf(reason, reason_bytes, "libcuda.so.1 cannot be loaded: %s", dlerror());
    return NULL;
  }
  cuda_t loaded;
  memset(&loaded, 0, sizeof loaded);
  result_t (*init)(unsigned), (*device_get)(device_t *, int), (*retain)(context_t *, device_t);
  result_t (*stream_create)(stream_t *, unsigned), (*event_create)(event_t *, unsigned);
  const struct {
    const char *name;
    void *place;
  } symbols[] = {
      {"cuInit", &init},
      {"cuDeviceGet", &device_get},
      {"cuDevicePrimaryCtxRetain", &retain},
      {"cuDevicePrimaryCtxRelease_v2", &loaded.release},
      {"cuCtxPushCurrent_v2", &loaded.push},
      {"cuCtxPopCurrent_v2", &loaded.pop},
      {"cuMemHostRegister_v2", &loaded.host_register},
      {"cuMemHostUnregister", &loaded.host_unregister},
      {"cuMemcpy2DAsync_v2", &loaded.copy2d},
      {"cuStreamCreate", &stream_create},
      {"cuStreamSynchronize", &loaded.stream_synchronize},
      {"cuStreamWaitEvent", &loaded.stream_wait},
      {"cuStreamDestroy_v2", &loaded.stream_destroy},
      {"cuEventCreate", &event_create},
      {"cuEventRecord", &loaded.event_record},
      {"cuEventSynchronize", &loaded.event_synchronize},
      {"cuEventDestroy_v2", &loaded.event_destroy},
  };
  for (size_t i = 0; i < sizeof symbols / sizeof symbols[0]; i++) {
    void *found = dlsym(driver, symbols[i].name);
    if (!found) {
      snprintf(reason, reason_bytes, "libcuda.so.1 has no %s: the driver is too old", symbols[i].name);
      return NULL;
    }
    memcpy(symbols[i].place, &found, sizeof found);
  }
  result_t result = init(0);
  if (result) return fail(reason, reason_bytes, "CUDA cannot be used", result);
  result = device_get(&loaded.ordinal, ordinal);
  if (result) return fail(reason, reason_bytes, "there is no such GPU", result);
  result = retain(&loaded.primary, loaded.ordinal);
  if (result) return fail(reason, reason_bytes, "the GPU's context cannot be had", result);
  cuda_t *cuda = malloc(sizeof *cuda);
  if (!cuda || (result = loaded.push(loaded.primary))) {
    free(cuda);
    loaded.release(loaded.ordinal);
    return fail(reason, reason_bytes, "the GPU's context cannot be used", result);
  }
  loaded.from_device = stream;
  *cuda = loaded;
  result = stream_create(&cuda->to_device, STREAM_NON_BLOCKING);
  if (!result) result = event_create(&cuda->done, EVENT_DISABLE_TIMING);
  if (!result) result = event_create(&cuda->computed, EVENT_DISABLE_TIMING);
  context_t old;
  cuda->pop(&old);
  if (result) {
    cremoteg2_cuda_close(&cuda->device);
    return fail(reason, reason_bytes, "the GPU gives no stream", result);
  }
  cuda->device = (rg2_device){cuda, map, unmap, copy};
  return &cuda->device;
}

void cremoteg2_cuda_close(rg2_device *device) {
  cuda_t *cuda = (cuda_t *)device;
  context_t old;
  if (!cuda->push(cuda->primary)) {
    if (cuda->to_device) {
      cuda->stream_synchronize(cuda->to_device);
      cuda->stream_destroy(cuda->to_device);
    }
    if (cuda->done) cuda->event_destroy(cuda->done);
    if (cuda->computed) cuda->event_destroy(cuda->computed);
    cuda->pop(&old);
  }
  cuda->release(cuda->ordinal);
  free(cuda);
}
