#ifndef CKERNELS_H
#define CKERNELS_H

// The model's arithmetic in fp32. Every result is defined element by element with one fixed order
// of fused multiply-adds, so it depends on nothing but its own inputs: not on how many rows a call
// has, where a row stands, how many threads share the work, or which CPU runs it. The vector and
// the portable versions give the same bits.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Columns in one panel of packed weights.
enum { CKERNELS_PANEL = 16 };

// "avx2+fma" or "portable".
const char *ckernels_kind(void);
// Use the portable version from now on (tests compare the two).
void ckernels_force_portable(bool portable);

// Packs row-major weights w[n][k] into panels p[ceil(n/16)][k][16], zero-padded.
void ckernels_pack(const float *w, size_t n, size_t k, float *panels);

// out[row][first_panel*16 ..] = x[row][:] . w[col][:], for panels first_panel ..< end_panel.
// x has row stride k; out has row stride n. Sums run over k from 0 upwards.
void ckernels_matmul(const float *x, size_t rows, size_t k, const float *panels, size_t n,
                     size_t first_panel, size_t end_panel, float *out);

// out[i] = x[i] * w[i] / sqrt(mean(x^2) + eps).
void ckernels_rms_norm(const float *x, const float *w, size_t n, float eps, float *out);

// Rotates interleaved pairs of one head. cosines and sines have head_size/2 entries.
void ckernels_rope(float *head, const float *cosines, const float *sines, size_t head_size);

// gate[i] = silu(gate[i]) * up[i].
void ckernels_silu_multiply(float *gate, const float *up, size_t n);

// x[i] += y[i].
void ckernels_add(float *x, const float *y, size_t n);

// One query head over `count` cached tokens. keys[b] and values[b] point to the rows of block b,
// [tokens_per_block][head_size]. scores is scratch for count floats.
void ckernels_attend(const float *query, const float *const *keys, const float *const *values,
                     size_t count, size_t tokens_per_block, size_t head_size, float scale,
                     float *scores, float *out);

// Dequantisation of whole rows; n is a multiple of 32.
void ckernels_dequantise_q4_1(const void *blocks, size_t n, float *out);
void ckernels_dequantise_q8_0(const void *blocks, size_t n, float *out);
void ckernels_dequantise_f16(const void *halves, size_t n, float *out);

#endif
