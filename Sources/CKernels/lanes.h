#ifndef CKERNELS_LANES_H
#define CKERNELS_LANES_H

// The two versions of each inner loop. Both follow the same definition, in eight lanes:
//   dot:    lane l sums x[i]*y[i] for i = l mod 8 upwards with fused multiply-add; the lanes are
//           added as ((0+4)+(2+6))+((1+5)+(3+7)); a tail is fused on, element by element.
//   exp:    the polynomial in lanes.inc, lane by lane.
//   attend: scores by dot; maximum; exp; their sum in position order; values fused in position
//           order, lane by lane; one division at the end.

#include <stddef.h>

#define CKERNELS_DECLARE(prefix)                                                                  \
  void prefix##_tile(const float *x, size_t height, size_t k, const float *panel, float *tile);   \
  void prefix##_dot(const float *x, const float *y, size_t n, float *result);                     \
  void prefix##_silu_multiply(float *gate, const float *up, size_t n);                            \
  void prefix##_attend(const float *query, const float *const *keys, const float *const *values,  \
                       size_t count, size_t tokens_per_block, size_t head_size, float scale,      \
                       float *scores, float *out);

CKERNELS_DECLARE(ckernels_vector)
CKERNELS_DECLARE(ckernels_portable)

#endif
