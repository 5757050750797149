/* packed_rows.c - rows of packed weights: multiplied as they are, or unpacked.
 *
 *     for each row of w:  runs of 4096 numbers ──► (streams: the run's scales to floats)
 *                             blocks ──► open ──► chunks of 32 ──► multiply-add with m rows of x
 *                                                              └─► store as f32 or bf16
 *
 * What decoding costs decides how few rows of x are few. Per 32 numbers of 4 bits AVX-512 needs about 9
 * instructions (load, shift, two look-ups, two multiply-adds and the scale), so a core takes in 20 GB/s and
 * more: memory is the bound, and arithmetic in f32 costs nothing beside it.
 *
 * Two sets of sums take turns chunk by chunk where registers allow, because two accumulators alone would
 * wait for each other; their order depends on n alone. */
#include "kernels/level.h"
#include "kernels/packed_blocks.h"
#include "kernels/packed_scales.h"

#if MICA_W == 16
#define SETS 2
#define MOST 4 /* rows of x at once */
#elif MICA_W == 8
#define SETS 1
#define MOST 2
#else
#define SETS 1
#define MOST 1
#endif

enum { KIND_BLOCK, KIND_PLAIN, KIND_STREAM };

typedef void open_block(const uint8_t *b, packed_state *s);
typedef void read_chunk(const uint8_t *b, const packed_state *s, int c, vf *v);

/* A type, constant wherever it is used. */
typedef struct packed_kind {
    int block, size, kind;
    open_block *open;
    read_chunk *read;
} packed_kind;

/* ---------------------------------------------------------------- walk -- */

/* What is done with chunks: sums of products with rows of x, or a store. */
typedef struct dot_sums {
    vf acc[MOST][SETS][CHUNK];
} dot_sums;

MICA_VEC void add_chunk(dot_sums *d, int m, int set, const vf *v, const float *x, ptrdiff_t ldx)
{
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++) {
        MICA_UNROLL(8)
        for (int j = 0; j < CHUNK; j++)
            d->acc[i][set][j] = vf_fma(v[j], vf_load(x + i * ldx + j * MICA_W), d->acc[i][set][j]);
    }
}

MICA_VEC float sum_of(const dot_sums *d, int i)
{
    vf sum = d->acc[i][0][0];
    MICA_UNROLL(2)
    for (int s = 0; s < SETS; s++) {
        MICA_UNROLL(8)
        for (int j = s ? 0 : 1; j < CHUNK; j++)
            sum = vf_add(sum, d->acc[i][s][j]);
    }
    return vf_hsum(sum);
}

/* One block against x; `set`: of its first chunk. */
MICA_VEC void dot_block(packed_kind t, const uint8_t *b, packed_state *s, dot_sums *d, int m,
                        int set, const float *x, ptrdiff_t ldx)
{
    t.open(b, s);
    MICA_UNROLL(8)
    for (int c = 0; c < t.block / 32; c++) {
        vf v[CHUNK];
        t.read(b, s, c, v);
        add_chunk(d, m, (set + c) % SETS, v, x + 32 * c, ldx);
    }
}

MICA_VEC void take_group(packed_kind t, const group_scales *g, int k, packed_state *s)
{
    if (t.kind != KIND_STREAM)
        return;
    s->scale[0] = g->scale[k >> g->shift];
    s->least[0] = g->bias[k >> g->shift];
}

/* The last numbers of a plain row, fewer than 32, through buffers of zeros. */
MICA_VEC void dot_tail(packed_kind t, const uint8_t *b, packed_state *s, dot_sums *d, int m, int n,
                       const float *x, ptrdiff_t ldx)
{
    uint8_t row[128] = {0};
    float tail[MOST][32] = {{0}};
    memcpy(row, b, (size_t)(n * (t.size / 32)));
    for (int i = 0; i < m; i++)
        memcpy(tail[i], x + i * ldx, (size_t)n * sizeof(float));
    dot_block(t, row, s, d, m, 0, tail[0], 32);
}

/* m rows of x, m constant. */
MICA_VEC void dot_row(packed_kind t, const mica_packed_rows *w, int r, int m, const float *x,
                      ptrdiff_t ldx, float *y, ptrdiff_t ldy)
{
    const uint8_t *b = (const uint8_t *)w->data + r * w->ld;
    dot_sums d;
    packed_state s;
    group_scales g;
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++) {
        MICA_UNROLL(2)
        for (int k = 0; k < SETS; k++) {
            MICA_UNROLL(8)
            for (int j = 0; j < CHUNK; j++)
                d.acc[i][k][j] = vf_zero();
        }
    }
    for (int from = 0; from < w->n; from += SCALES_RUN) {
        const int n = w->n - from < SCALES_RUN ? w->n - from : SCALES_RUN;
        const int step = t.block == 32 ? 32 * SETS : t.block;
        const float *xr = x + from;
        int k = 0;
        if (t.kind == KIND_STREAM)
            read_scales(w, r, from, n, &g);
        for (; k + step <= n; k += step) {
            take_group(t, &g, k, &s);
            dot_block(t, b, &s, &d, m, 0, xr + k, ldx);
            b += t.size;
            if (step == 2 * t.block) { /* a small block for each set */
                take_group(t, &g, k + t.block, &s);
                dot_block(t, b, &s, &d, m, 1, xr + k + t.block, ldx);
                b += t.size;
            }
        }
        for (; k + t.block <= n; k += t.block, b += t.size) {
            take_group(t, &g, k, &s);
            dot_block(t, b, &s, &d, m, 0, xr + k, ldx);
        }
        if (t.kind == KIND_PLAIN && k < n)
            dot_tail(t, b, &s, &d, m, n - k, xr + k, ldx);
    }
    const float factor = w->row_scale ? w->row_scale[r] : 1.0f;
    for (int i = 0; i < m; i++)
        y[i * ldy + r] = factor * sum_of(&d, i);
}

/* --------------------------------------------------------------- store -- */

MICA_VEC void store_f32(void *dst, const vf *v, vf factor)
{
    MICA_UNROLL(8)
    for (int j = 0; j < CHUNK; j++)
        vf_store((float *)dst + j * MICA_W, vf_mul(v[j], factor));
}
MICA_VEC void store_bf16(void *dst, const vf *v, vf factor)
{
    MICA_UNROLL(4)
    for (int j = 0; j < CHUNK; j += 2)
        vi_store((uint16_t *)dst + j * MICA_W,
                 vi_bf16_from_2vf(vf_mul(v[j], factor), vf_mul(v[j + 1], factor)));
}

typedef void store_chunk(void *dst, const vf *v, vf factor);

MICA_VEC void unpack_block(packed_kind t, const uint8_t *b, packed_state *s, char *dst, int size,
                           vf factor, store_chunk *store)
{
    t.open(b, s);
    MICA_UNROLL(8)
    for (int c = 0; c < t.block / 32; c++) {
        vf v[CHUNK];
        t.read(b, s, c, v);
        store(dst + 32 * c * size, v, factor);
    }
}

MICA_VEC void unpack_row(packed_kind t, const mica_packed_rows *w, int r, char *dst, int size,
                         store_chunk *store)
{
    const uint8_t *b = (const uint8_t *)w->data + r * w->ld;
    const vf factor = vf_set1(w->row_scale ? w->row_scale[r] : 1.0f);
    packed_state s;
    group_scales g;
    for (int from = 0; from < w->n; from += SCALES_RUN) {
        const int n = w->n - from < SCALES_RUN ? w->n - from : SCALES_RUN;
        int k = 0;
        if (t.kind == KIND_STREAM)
            read_scales(w, r, from, n, &g);
        for (; k + t.block <= n; k += t.block, b += t.size, dst += t.block * size) {
            take_group(t, &g, k, &s);
            unpack_block(t, b, &s, dst, size, factor, store);
        }
        if (t.kind == KIND_PLAIN && k < n) {
            uint8_t row[128] = {0};
            float tail[32];
            memcpy(row, b, (size_t)((n - k) * (t.size / 32)));
            unpack_block(t, row, &s, (char *)tail, size, factor, store);
            memcpy(dst, tail, (size_t)((n - k) * size));
        }
    }
}

/* --------------------------------------------------------------- types -- */

typedef void dot_few(const mica_packed_rows *w, int r, int m, const float *x, ptrdiff_t ldx,
                     float *y, ptrdiff_t ldy);
typedef void unpack_one(const mica_packed_rows *w, int r, void *dst);

#define KIND(OPEN, READ, BLOCK, SIZE, SORT)                                                        \
    ((packed_kind){BLOCK, SIZE, SORT, open_##OPEN, read_##READ})
#define DEFINE(NAME, OPEN, READ, BLOCK, SIZE, SORT)                                                \
    static void dot_##NAME(const mica_packed_rows *w, int r, int m, const float *x, ptrdiff_t ldx, \
                           float *y, ptrdiff_t ldy)                                                \
    {                                                                                              \
        const packed_kind t = KIND(OPEN, READ, BLOCK, SIZE, SORT);                                 \
        if (m == 1)                                                                                \
            dot_row(t, w, r, 1, x, ldx, y, ldy);                                                   \
        else if (MOST >= 2 && m == 2)                                                              \
            dot_row(t, w, r, MOST >= 2 ? 2 : 1, x, ldx, y, ldy);                                   \
        else if (MOST >= 4)                                                                        \
            dot_row(t, w, r, MOST, x, ldx, y, ldy);                                                \
    }                                                                                              \
    static void f32_##NAME(const mica_packed_rows *w, int r, void *dst)                            \
    {                                                                                              \
        unpack_row(KIND(OPEN, READ, BLOCK, SIZE, SORT), w, r, (char *)dst, 4, store_f32);          \
    }                                                                                              \
    static void bf16_##NAME(const mica_packed_rows *w, int r, void *dst)                           \
    {                                                                                              \
        unpack_row(KIND(OPEN, READ, BLOCK, SIZE, SORT), w, r, (char *)dst, 2, store_bf16);         \
    }
PACKED_TYPES(DEFINE)

/* clang-format off */
static const struct packed_functions {
    dot_few *dot;
    unpack_one *f32, *bf16;
} FUNCTIONS[MICA_PACKED_COUNT] = {
#define ENTRY(NAME, OPEN, READ, BLOCK, SIZE, SORT) \
    [MICA_PACKED_##NAME] = {dot_##NAME, f32_##NAME, bf16_##NAME},
    PACKED_TYPES(ENTRY)
};
/* clang-format on */

void MICA_K(dot_rows)(const mica_packed_rows *w, int m, const float *x, ptrdiff_t ldx, float *y,
                      ptrdiff_t ldy)
{
    for (int r = 0; r < w->rows; r++)
        for (int i = 0; i < m;) {
            const int left = m - i, take = left >= MOST ? MOST : left >= 2 ? 2 : 1;
            FUNCTIONS[w->type].dot(w, r, take, x + i * ldx, ldx, y + i * ldy, ldy);
            i += take;
        }
}

void MICA_K(unpack_f32)(const mica_packed_rows *w, float *dst, ptrdiff_t ld)
{
    for (int r = 0; r < w->rows; r++)
        FUNCTIONS[w->type].f32(w, r, dst + r * ld);
}

void MICA_K(unpack_bf16)(const mica_packed_rows *w, uint16_t *dst, ptrdiff_t ld)
{
    for (int r = 0; r < w->rows; r++)
        FUNCTIONS[w->type].bf16(w, r, dst + r * ld);
}
