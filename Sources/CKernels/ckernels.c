#include "ckernels.h"
#include "lanes.h"

// Fusing is spelled out where it is meant; the compiler may not add any.
#pragma STDC FP_CONTRACT OFF

#include <math.h>
#include <string.h>

// 0 undecided, 1 portable, 2 vector.
static int kind = 0;

static int chosen(void) {
  int k = __atomic_load_n(&kind, __ATOMIC_RELAXED);
  if (k == 0) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    k = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 2 : 1;
#else
    k = 1;
#endif
    __atomic_store_n(&kind, k, __ATOMIC_RELAXED);
  }
  return k;
}

const char *ckernels_kind(void) { return chosen() == 2 ? "avx2+fma" : "portable"; }

void ckernels_force_portable(bool portable) {
  __atomic_store_n(&kind, portable ? 1 : 0, __ATOMIC_RELAXED);
}

void ckernels_pack(const float *w, size_t n, size_t k, float *panels) {
  size_t count = (n + CKERNELS_PANEL - 1) / CKERNELS_PANEL;
  for (size_t p = 0; p < count; p++) {
    float *panel = panels + p * k * CKERNELS_PANEL;
    for (size_t j = 0; j < CKERNELS_PANEL; j++) {
      size_t column = p * CKERNELS_PANEL + j;
      for (size_t i = 0; i < k; i++)
        panel[i * CKERNELS_PANEL + j] = column < n ? w[column * k + i] : 0.0f;
    }
  }
}

#define DISPATCH(call) \
  if (chosen() == 2) { ckernels_vector_##call; } else { ckernels_portable_##call; }

void ckernels_matmul(const float *x, size_t rows, size_t k, const float *panels, size_t n,
                     size_t first_panel, size_t end_panel, float *out) {
  for (size_t p = first_panel; p < end_panel; p++) {
    const float *panel = panels + p * k * CKERNELS_PANEL;
    size_t column = p * CKERNELS_PANEL;
    size_t width = n - column < CKERNELS_PANEL ? n - column : CKERNELS_PANEL;
    float tile[6 * CKERNELS_PANEL];
    for (size_t row = 0; row < rows;) {
      size_t height = rows - row < 6 ? rows - row : 6;
      DISPATCH(tile(x + row * k, height, k, panel, tile))
      for (size_t r = 0; r < height; r++)
        memcpy(out + (row + r) * n + column, tile + r * CKERNELS_PANEL, width * sizeof(float));
      row += height;
    }
  }
}

void ckernels_rms_norm(const float *x, const float *w, size_t n, float eps, float *out) {
  float squares;
  DISPATCH(dot(x, x, n, &squares))
  float factor = 1.0f / sqrtf(squares / (float)n + eps);
  for (size_t i = 0; i < n; i++) out[i] = (x[i] * factor) * w[i];
}

void ckernels_rope(float *head, const float *cosines, const float *sines, size_t head_size) {
  for (size_t i = 0; i < head_size / 2; i++) {
    float a = head[2 * i], b = head[2 * i + 1];
    float first = a * cosines[i], second = b * sines[i];
    float third = a * sines[i], fourth = b * cosines[i];
    head[2 * i] = first - second;
    head[2 * i + 1] = third + fourth;
  }
}

void ckernels_silu_multiply(float *gate, const float *up, size_t n) {
  DISPATCH(silu_multiply(gate, up, n))
}

void ckernels_add(float *x, const float *y, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] += y[i];
}

void ckernels_attend(const float *query, const float *const *keys, const float *const *values,
                     size_t count, size_t tokens_per_block, size_t head_size, float scale,
                     float *scores, float *out) {
  DISPATCH(attend(query, keys, values, count, tokens_per_block, head_size, scale, scores, out))
}

static float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 1023;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7F800000 | fraction << 13;
  } else if (exponent != 0) {
    bits = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    float value = (float)fraction * 0x1p-24f;
    memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static float half_at(const uint8_t *bytes) {
  return half_to_float((uint16_t)(bytes[0] | bytes[1] << 8));
}

void ckernels_dequantise_q4_1(const void *blocks, size_t n, float *out) {
  const uint8_t *b = blocks;
  for (size_t i = 0; i < n; i += 32, b += 20) {
    float d = half_at(b), m = half_at(b + 2);
    for (size_t j = 0; j < 16; j++) {
      float low = (float)(b[4 + j] & 15) * d, high = (float)(b[4 + j] >> 4) * d;
      out[i + j] = low + m;
      out[i + 16 + j] = high + m;
    }
  }
}

void ckernels_dequantise_q8_0(const void *blocks, size_t n, float *out) {
  const uint8_t *b = blocks;
  for (size_t i = 0; i < n; i += 32, b += 34) {
    float d = half_at(b);
    for (size_t j = 0; j < 32; j++) out[i + j] = (float)(int8_t)b[2 + j] * d;
  }
}

void ckernels_dequantise_f16(const void *halves, size_t n, float *out) {
  const uint8_t *b = halves;
  for (size_t i = 0; i < n; i++) out[i] = half_at(b + 2 * i);
}
