#include "lanes.h"

// Fusing is spelled out where it is meant; the compiler may not add any.
#pragma STDC FP_CONTRACT OFF

#include <math.h>
#include <string.h>

// fmaf rounds once whether the CPU has the instruction or libm emulates it.
typedef struct { float l[8]; } V;
#define EACH(expression) V r; for (int i = 0; i < 8; i++) r.l[i] = (expression); return r;
static inline V v_load(const float *p) { V r; memcpy(r.l, p, sizeof r.l); return r; }
static inline void v_store(float *p, V v) { memcpy(p, v.l, sizeof v.l); }
static inline V v_set1(float x) { EACH(x) }
static inline V v_fma(V a, V b, V c) { EACH(fmaf(a.l[i], b.l[i], c.l[i])) }
static inline V v_add(V a, V b) { EACH(a.l[i] + b.l[i]) }
static inline V v_sub(V a, V b) { EACH(a.l[i] - b.l[i]) }
static inline V v_mul(V a, V b) { EACH(a.l[i] * b.l[i]) }
static inline V v_div(V a, V b) { EACH(a.l[i] / b.l[i]) }
static inline V v_max(V a, V b) { EACH(a.l[i] > b.l[i] ? a.l[i] : b.l[i]) }
static inline V v_min(V a, V b) { EACH(a.l[i] < b.l[i] ? a.l[i] : b.l[i]) }
static inline V v_round(V a) { EACH(nearbyintf(a.l[i])) }
static inline V v_pow2(V a) { EACH(ldexpf(1.0f, (int)a.l[i])) }
static inline float v_reduce(V v) {
  const float *s = v.l;
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}
static inline float s_fma(float a, float b, float c) { return fmaf(a, b, c); }
#define TARGET
#define NAME(x) ckernels_portable_##x
#include "lanes.inc"

void ckernels_portable_tile(const float *x, size_t height, size_t k, const float *panel,
                            float *tile) {
  for (size_t r = 0; r < height; r++) {
    V low = v_set1(0.0f), high = low;
    for (size_t i = 0; i < k; i++) {
      V a = v_set1(x[r * k + i]);
      low = v_fma(a, v_load(panel + i * 16), low);
      high = v_fma(a, v_load(panel + i * 16 + 8), high);
    }
    v_store(tile + r * 16, low);
    v_store(tile + r * 16 + 8, high);
  }
}
