/* rng.c - MT19937 (Matsumoto and Nishimura 1998) as at::mt19937 keeps it: seeded by the low 32
 * bits of the seed, 624 words regenerated at once, each word tempered when it is taken. */
#include "base/rng.h"

#define N          624
#define M          397
#define UPPER_MASK 0x80000000u
#define LOWER_MASK 0x7fffffffu

void mica_mt19937_init(mica_mt19937 *g, uint64_t seed)
{
    g->state[0] = (uint32_t)seed;
    for (uint32_t i = 1; i < N; i++) {
        const uint32_t previous = g->state[i - 1];
        g->state[i] = 1812433253u * (previous ^ (previous >> 30)) + i;
    }
    g->next = N;
}

static void regenerate(mica_mt19937 *g)
{
    uint32_t *s = g->state;
    for (int i = 0; i < N; i++) {
        const uint32_t y = (s[i] & UPPER_MASK) | (s[(i + 1) % N] & LOWER_MASK);
        s[i] = s[(i + M) % N] ^ (y >> 1) ^ ((y & 1u) ? 0x9908b0dfu : 0u);
    }
    g->next = 0;
}

uint32_t mica_mt19937_next(mica_mt19937 *g)
{
    if (g->next >= N)
        regenerate(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}
