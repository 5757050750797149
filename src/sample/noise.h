/* noise.h - the starting noise of torch.Generator("cpu").manual_seed(S).
 *
 * Source: ATen/native/cpu/DistributionTemplates.h (normal_fill for >= 16 elements: uniforms first,
 * then Box-Muller on blocks of 16 with the last 16 redrawn; scalar path with a cached second
 * value below 16) and ATen/core/MT19937RNGEngine.h. */
#ifndef MICA_SAMPLE_NOISE_H
#define MICA_SAMPLE_NOISE_H

#include "base/rng.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* torch.randn(n, generator=manual_seed(seed), dtype=float32). */
void mica_noise_f32(uint64_t seed, float *out, size_t n);
/* The same with dtype=bfloat16 as torch 2.11 draws it; out holds the bf16 values as f32. */
void mica_noise_bf16_torch211(uint64_t seed, float *out, size_t n);

/* The next n values of a generator's stream, for runs that draw several tensors. n >= 16: below that
 * torch keeps half a pair for the next call, which these do not. */
void mica_noise_f32_next(mica_mt19937 *g, float *out, size_t n);
void mica_noise_bf16_torch211_next(mica_mt19937 *g, float *out, size_t n);

#endif
