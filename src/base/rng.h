/* rng.h - MT19937 with torch's seeding (at::mt19937, ATen/core/MT19937RNGEngine.h). */
#ifndef MICA_BASE_RNG_H
#define MICA_BASE_RNG_H

#include <stdint.h>

typedef struct mica_mt19937 {
    uint32_t state[624];
    int next; /* index of the next word; 624: regenerate */
} mica_mt19937;

void mica_mt19937_init(mica_mt19937 *g, uint64_t seed); /* torch keeps the low 32 bits */
uint32_t mica_mt19937_next(mica_mt19937 *g);

#endif
