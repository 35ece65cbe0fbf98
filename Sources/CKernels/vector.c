#include "lanes.h"

// Fusing is spelled out where it is meant; the compiler may not add any.
#pragma STDC FP_CONTRACT OFF

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define NAME(x) ckernels_vector_##x
typedef __m256 V;
#define v_load _mm256_loadu_ps
#define v_store _mm256_storeu_ps
#define v_set1 _mm256_set1_ps
#define v_fma _mm256_fmadd_ps
#define v_add _mm256_add_ps
#define v_sub _mm256_sub_ps
#define v_mul _mm256_mul_ps
#define v_div _mm256_div_ps
#define v_max _mm256_max_ps
#define v_min _mm256_min_ps
TARGET static inline V v_round(V a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TARGET static inline V v_pow2(V a) {
  __m256i n = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(n, 23));
}
TARGET static inline float v_reduce(V v) {
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  __m128 u = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(u, _mm_movehdup_ps(u)));
}
TARGET static inline float s_fma(float a, float b, float c) {
  return _mm_cvtss_f32(_mm_fmadd_ss(_mm_set_ss(a), _mm_set_ss(b), _mm_set_ss(c)));
}
#include "lanes.inc"

// Six rows by sixteen columns in twelve registers; every element is one chain over k.
TARGET static void tile_6(const float *x, size_t k, const float *panel, float *tile) {
  __m256 c00 = _mm256_setzero_ps(), c01 = c00, c10 = c00, c11 = c00, c20 = c00, c21 = c00;
  __m256 c30 = c00, c31 = c00, c40 = c00, c41 = c00, c50 = c00, c51 = c00;
  const float *x0 = x, *x1 = x + k, *x2 = x + 2 * k, *x3 = x + 3 * k, *x4 = x + 4 * k,
              *x5 = x + 5 * k;
  for (size_t i = 0; i < k; i++) {
    __m256 low = _mm256_loadu_ps(panel + i * 16), high = _mm256_loadu_ps(panel + i * 16 + 8);
    __m256 a = _mm256_broadcast_ss(x0 + i);
    c00 = _mm256_fmadd_ps(a, low, c00), c01 = _mm256_fmadd_ps(a, high, c01);
    a = _mm256_broadcast_ss(x1 + i);
    c10 = _mm256_fmadd_ps(a, low, c10), c11 = _mm256_fmadd_ps(a, high, c11);
    a = _mm256_broadcast_ss(x2 + i);
    c20 = _mm256_fmadd_ps(a, low, c20), c21 = _mm256_fmadd_ps(a, high, c21);
    a = _mm256_broadcast_ss(x3 + i);
    c30 = _mm256_fmadd_ps(a, low, c30), c31 = _mm256_fmadd_ps(a, high, c31);
    a = _mm256_broadcast_ss(x4 + i);
    c40 = _mm256_fmadd_ps(a, low, c40), c41 = _mm256_fmadd_ps(a, high, c41);
    a = _mm256_broadcast_ss(x5 + i);
    c50 = _mm256_fmadd_ps(a, low, c50), c51 = _mm256_fmadd_ps(a, high, c51);
  }
  _mm256_storeu_ps(tile, c00), _mm256_storeu_ps(tile + 8, c01);
  _mm256_storeu_ps(tile + 16, c10), _mm256_storeu_ps(tile + 24, c11);
  _mm256_storeu_ps(tile + 32, c20), _mm256_storeu_ps(tile + 40, c21);
  _mm256_storeu_ps(tile + 48, c30), _mm256_storeu_ps(tile + 56, c31);
  _mm256_storeu_ps(tile + 64, c40), _mm256_storeu_ps(tile + 72, c41);
  _mm256_storeu_ps(tile + 80, c50), _mm256_storeu_ps(tile + 88, c51);
}

TARGET static void tile_1(const float *x, size_t k, const float *panel, float *tile) {
  __m256 low = _mm256_setzero_ps(), high = low;
  for (size_t i = 0; i < k; i++) {
    __m256 a = _mm256_broadcast_ss(x + i);
    low = _mm256_fmadd_ps(a, _mm256_loadu_ps(panel + i * 16), low);
    high = _mm256_fmadd_ps(a, _mm256_loadu_ps(panel + i * 16 + 8), high);
  }
  _mm256_storeu_ps(tile, low), _mm256_storeu_ps(tile + 8, high);
}

void ckernels_vector_tile(const float *x, size_t height, size_t k, const float *panel,
                          float *tile) {
  if (height == 6) {
    tile_6(x, k, panel, tile);
  } else {
    for (size_t r = 0; r < height; r++) tile_1(x + r * k, k, panel, tile + r * 16);
  }
}

#else

// Never chosen here; present so that the program links.
#define ckernels_portable_tile ckernels_vector_tile
#define ckernels_portable_dot ckernels_vector_dot
#define ckernels_portable_silu_multiply ckernels_vector_silu_multiply
#define ckernels_portable_attend ckernels_vector_attend
#include "portable.c"

#endif
