#ifndef CREMOTEG2_CUDA_DEVICE_H
#define CREMOTEG2_CUDA_DEVICE_H

#include "remote_g2.h"

// Where it returns NULL, `reason` says why.
rg2_device *cremoteg2_cuda_open(int32_t ordinal, void *stream, char *reason, size_t reason_bytes);
void cremoteg2_cuda_close(rg2_device *device);

#endif
