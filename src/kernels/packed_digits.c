/* packed_digits.c - rows of packed weights times x in whole numbers: as exact as f32 if need be, at the speed of bytes.
 *
 *     x, 32 numbers ──► X = round(x / s), 24, 16 or 8 bits ──► three, two or one digits of 8 bits with a sign
 *     w, 64 numbers ──► q, 8 bits without a sign ──► q . X, a digit at a time, whole numbers, no rounding
 *
 *         y = sum over units of 16:  scale * s * (q . X)  +  least * s * (sum of X)
 *
 * With three digits s is a 2^23rd of the largest of the 32 numbers, so that the rounding of x is that of f32 for the
 * largest and below it for all: sums come out as those of f32 do. Where f32 takes a conversion and a multiply-add
 * for every 16 weights, this takes an instruction a digit for 64, and memory is the bound again.
 *
 *     a row of x in three digits, a panel of 256 numbers after the other (960 bytes):
 *     4 x [64 high digits | 64 middle | 64 low]   16 x s, s (sum of X) by 32   16 x s   16 x s (sum of X) by 16
 *
 * What a weight's integer lacks (-8 of Q4_0, the minima of Q4_K, the bias of MLX) is the second sum: 16 of
 * them to a panel. Integers of at most 6 bits have room for all three digits in one 32-bit sum of 4
 * products: 63 * 4 * 8,355,711 < 2^31. Those of 8 bits have room for two and take the low one of three apart.
 *
 * Compiled for one level alone (vec_bytes.h); the others multiply in f32 (packed_rows.c). */
#include "base/compiler.h"
#include "kernels/level.h"
#include "kernels/packed_scales.h"
#include "kernels/vec_bytes.h"

#define PANEL   256
#define CHUNKS  4          /* of 64 numbers, to a panel */
#define MOST    4          /* rows of x at once */
#define GROUP   16         /* rows of w that share a run of x */
#define RUN     1024       /* numbers of such a run */
#define STRIP   (44 << 10) /* bytes of one row of x in digits that stay in L1 */
#define LARGEST (8 * 34)   /* bytes of a panel of w */
#define AHEAD   6144       /* bytes of w that are asked for before they are read */
#define OVER    64         /* bytes behind a panel that are read with it, at most */

enum { KIND_BLOCK, KIND_PLAIN, KIND_STREAM };

/* Which numbers of a panel are chunk c of x, so that those of w come out of their bytes without more
 * moves. In all but NATURAL two or four chunks have numbers of the same blocks in the same lanes. */
enum {
    NATURAL, /* 64 c ...                                                                             */
    HALVES, /* the first (c even) or last 16 numbers of blocks 4 (c / 2) ... + 3                   */
    EVEN_ODD, /* the even (c even) or odd numbers of these blocks                                     */
    ALTERNATE, /* the first (c even) or last 16 numbers of every other block, from c / 2              */
    QUARTERS, /* numbers 8 c ... 8 c + 7 of every block                                            */
    FOURTHS, /* every fourth number, from c                                                         */
};

/* scale, least: of the panel's 16 units; NULL in streams, whose groups have them. */
typedef void open_panel(const uint8_t *b, vf *scale, vf *least);
/* Chunk c of the panel. */
typedef vb read_panel(const uint8_t *b, int c);

/* A type, constant wherever it is used. */
typedef struct digit_kind {
    int digits;            /* of x */
    int size, kind, order; /* bytes of a panel */
    int unit;              /* numbers that share a scale, of those it may have: 16 or 32 */
    bool is_wide;          /* more than 6 bits */
    float offset;          /* factor of the second sum */
    open_panel *open;
    read_panel *read;
    ptrdiff_t ahead; /* with one row of x: bytes to what is read later and asked for now */
} digit_kind;

/* ------------------------------------------------------------- blocks of 32 -- */

/* Chunk c of nibbles in bytes: low ones first, high ones second. */
MICA_VEC vb nibbles(vb bytes, int c)
{
    return c % 2 ? vb_shr_4(bytes) : vb_and(bytes, vb_set1(15));
}
/* Four blocks of `size` bytes whose nibbles begin at `at`. */
MICA_VEC vb read_nibbles(const uint8_t *b, int size, int at, int c)
{
    return nibbles(vb_four(b + 4 * size * (c / 2), size, at), c);
}
/* The same with the fifth bits of a 32-bit word at `word`. */
MICA_VEC vb read_fifth(const uint8_t *b, int size, int at, int word, int c)
{
    return vb_add_16_where(read_nibbles(b, size, at, c), b + 4 * size * (c / 2), size,
                           word + 2 * (c % 2));
}
MICA_VEC uint32_t word_at(const uint8_t *p)
{
    uint32_t w;
    memcpy(&w, p, 4);
    return w;
}
#define OPEN(name, what)                                                                           \
    MICA_VEC void open_##name(const uint8_t *b, vf *scale, vf *least)                              \
    {                                                                                              \
        what;                                                                                      \
    }
#define READ(name, what)                                                                           \
    MICA_VEC vb read_##name(const uint8_t *b, int c)                                               \
    {                                                                                              \
        return what;                                                                               \
    }
OPEN(q8_0, (void)least; *scale = vf_from_8_of_34(b))
READ(q8_0, vb_xor(vb_two_of_34(b + 68 * c), vb_set1(128)))
OPEN(q4_0, (void)least; *scale = vf_from_8_blocks(b, 18, 0))
READ(q4_0, read_nibbles(b, 18, 2, c))
OPEN(q4_1, (void)least; *scale = vf_from_8_blocks(b, 20, 2))
READ(q4_1, read_nibbles(b, 20, 4, c))
OPEN(q5_0, (void)least; *scale = vf_from_8_blocks(b, 22, 0))
READ(q5_0, read_fifth(b, 22, 6, 2, c))
OPEN(q5_1, (void)least; *scale = vf_from_8_blocks(b, 24, 2))
READ(q5_1, read_fifth(b, 24, 8, 4, c))

/* The tables of packed_blocks.h, raised above 0. */
static const uint8_t IQ4_RAISED[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                       129, 141, 153, 166, 181, 197, 217, 241};
static const uint8_t E2M1_RAISED[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
OPEN(iq4_nl, (void)least; *scale = vf_from_8_blocks(b, 18, 0))
READ(iq4_nl, vb_table(IQ4_RAISED, read_nibbles(b, 18, 2, c)))

/* 2^(e - 128), as the table holds twice the numbers. */
OPEN(mxfp4, (void)least; *scale = vf_power2(vi_from_8_bytes_of_17(b)))
READ(mxfp4, vb_table(E2M1_RAISED, read_nibbles(b, 17, 1, c)))

/* ------------------------------------------------------------ blocks of 256 -- */

OPEN(q2_k, vf s[2]; vf_from_16_nibbles(b, s); *scale = vf_mul(s[0], vf_from_f16_once(b + 80));
     *least = vf_sub(vf_zero(), vf_mul(s[1], vf_from_f16_once(b + 82))))
READ(q2_k, vb_move(vb_twice(b + 16 + 32 * (c / 2)), vb_rule(4 * (c % 2), 2, 0),
                   vb_rule(4 * (c % 2) + 2, 2, 0)))

/* 16 scales of 6 bits from 12 bytes, less 32. */
MICA_VEC void open_q3_k(const uint8_t *b, vf *scale, vf *least)
{
    const vi s = vi_sub(vi_from_16_bytes(vec_q3_k_scales(b + 96)), vi_set1(32));
    *scale = vf_mul(vf_from_vi(s), vf_from_f16_once(b + 108));
    *least = *scale;
}
READ(q3_k, vb_or(vb_move(vb_twice(b + 32 + 32 * (c / 2)), vb_rule(4 * (c % 2), 2, 0),
                         vb_rule(4 * (c % 2) + 2, 2, 0)),
                 vb_move(vb_twice(b), vb_rule(2 * c, 1, 2), vb_rule(2 * c + 1, 1, 2))))

/* 8 scales and 8 minima of 6 bits from 12 bytes. */
MICA_VEC void open_q4_k(const uint8_t *b, vf *scale, vf *least)
{
    (void)least;
    *scale = vf_from_2_f16_u8(b, vec_q4_k_scales(b + 4));
}
/* Bytes have nibbles of blocks 2 i and 2 i + 1: chunks 0 and 1 are the halves of even blocks. */
MICA_VEC vb read_q4_bytes(const uint8_t *qs, int c)
{
    const vb both = vb_every_other(vb_load(qs), vb_load(qs + 64), c % 2);
    return nibbles(both, c / 2);
}
READ(q4_k, read_q4_bytes(b + 16, c))
/* Bit i of 32 bytes is the fifth bit of block i. */
READ(q5_k, vb_or(read_q4_bytes(b + 48, c),
                 vb_move_each(vb_sixteen(b + 16 + 16 * (c % 2)), vb_rule(c / 2, 1, 4),
                              vb_rule(2 + c / 2, 1, 4), vb_rule(4 + c / 2, 1, 4),
                              vb_rule(6 + c / 2, 1, 4))))

OPEN(q6_k,
     *scale = vf_mul(vf_from_vi(vi_from_s8((const int8_t *)b + 192)), vf_from_f16_once(b + 208));
     *least = *scale)
READ(q6_k, vb_or(vb_move(vb_load(b + 64 * (c / 2)), vb_rule(4 * (c % 2), 4, 0),
                         vb_rule(4 * (c % 2), 4, 0)),
                 vb_move(vb_twice(b + 128 + 32 * (c / 2)), vb_rule(4 * (c % 2), 2, 4),
                         vb_rule(4 * (c % 2) + 2, 2, 4))))

/* 8 scales of 6 bits, 4 + 2, less 32. */
MICA_VEC void open_iq4_xs(const uint8_t *b, vf *scale, vf *least)
{
    const vi low = vi_fields(word_at(b + 4), 4), high = vi_fields(word_at(b) >> 16, 2);
    const vi s = vi_sub(vi_or(low, vi_shl(high, 4)), vi_set1(32));
    (void)least;
    *scale = vf_mul(vf_from_vi(s), vf_from_f16_once(b));
}
READ(iq4_xs, vb_table(IQ4_RAISED, nibbles(vb_load(b + 8 + 64 * (c / 2)), c)))

/* ------------------------------------------------------- streams and plain -- */

OPEN(stream, (void)b; (void)scale; (void)least)
READ(b2, vb_move(vb_load(b), vb_rule(2 * c, 2, 0), vb_rule(2 * c, 2, 0)))
READ(b3, vb_stream_3(b, c))
READ(b4, nibbles(vb_load(b + 64 * (c / 2)), c))
/* Chunks 2 i and 2 i + 1: the halves of blocks 4 i ... 4 i + 3. */
READ(b5, vb_stream_5(b + 80 * (c / 2), c % 2))
READ(b6, vb_stream_6(b, c))
READ(b8, vb_load(b + 64 * c))
OPEN(s8, (void)b; (void)least; *scale = vf_set1(1.0f))
READ(s8, vb_xor(vb_load(b + 64 * c), vb_set1(128)))

/* X(NAME, open, read, bytes of a panel, kind, order of x, unit, wide, offset) */
#define DIGIT_TYPES(X)                                                                             \
    X(S8, s8, s8, 256, PLAIN, NATURAL, 32, true, -128)                                             \
    X(Q8_0, q8_0, q8_0, 8 * 34, BLOCK, NATURAL, 32, true, -128)                                    \
    X(Q4_0, q4_0, q4_0, 8 * 18, BLOCK, HALVES, 32, false, -8)                                      \
    X(Q4_1, q4_1, q4_1, 8 * 20, BLOCK, HALVES, 32, false, 1)                                       \
    X(Q5_0, q5_0, q5_0, 8 * 22, BLOCK, HALVES, 32, false, -16)                                     \
    X(Q5_1, q5_1, q5_1, 8 * 24, BLOCK, HALVES, 32, false, 1)                                       \
    X(Q2_K, q2_k, q2_k, 84, BLOCK, NATURAL, 16, false, 1)                                          \
    X(Q3_K, q3_k, q3_k, 110, BLOCK, NATURAL, 16, false, -4)                                        \
    X(Q4_K, q4_k, q4_k, 144, BLOCK, ALTERNATE, 32, false, -1)                                      \
    X(Q5_K, q4_k, q5_k, 176, BLOCK, ALTERNATE, 32, false, -1)                                      \
    X(Q6_K, q6_k, q6_k, 210, BLOCK, NATURAL, 16, false, -32)                                       \
    X(IQ4_NL, iq4_nl, iq4_nl, 8 * 18, BLOCK, HALVES, 32, true, -128)                               \
    X(IQ4_XS, iq4_xs, iq4_xs, 136, BLOCK, HALVES, 32, true, -128)                                  \
    X(MXFP4, mxfp4, mxfp4, 8 * 17, BLOCK, HALVES, 32, false, -12)                                  \
    X(B2, stream, b2, 64, STREAM, FOURTHS, 32, false, 1)                                           \
    X(B3, stream, b3, 96, STREAM, QUARTERS, 32, false, 1)                                          \
    X(B4, stream, b4, 128, STREAM, EVEN_ODD, 32, false, 1)                                         \
    X(B5, stream, b5, 160, STREAM, HALVES, 32, false, 1)                                           \
    X(B6, stream, b6, 192, STREAM, NATURAL, 32, false, 1)                                          \
    X(B8, stream, b8, 256, STREAM, NATURAL, 32, true, 1)

/* ----------------------------------------------------------------- products -- */

/* Two sums that take turns, because each would wait for itself; low: the low digit, of wide types. */
typedef struct digit_sums {
    vf sum[MOST][2], low[MOST][2], offset[MOST];
} digit_sums;

/* The low digit has sums of its own. */
MICA_VEC bool is_split(digit_kind t)
{
    return t.is_wide && t.digits == 3;
}

/* How many chunks have numbers of the same blocks in the same lanes. */
MICA_VEC int together_in(digit_kind t)
{
    return t.order == NATURAL ? 1 : t.order < QUARTERS ? 2 : CHUNKS;
}

/* `chunks` of w (1, 2 or 4) whose lanes share their scales. */
MICA_VEC void add_chunks(digit_kind t, digit_sums *d, int i, int set, int chunks, const vb *w,
                         const int8_t *x, vf s)
{
    const int joined = is_split(t) ? 2 : t.digits;
    vi sum = vi_zero(), low = vi_zero();
    MICA_UNROLL(3)
    for (int digit = 0; digit < joined; digit++) {
        if (digit)
            sum = vi_shl(sum, 8);
        MICA_UNROLL(4)
        for (int c = 0; c < chunks; c++)
            sum = vi_dot_u8s8(sum, w[c], vb_load(x + 64 * (t.digits * c + digit)));
    }
    d->sum[i][set] = vf_fma(vf_from_vi(sum), s, d->sum[i][set]);
    if (!is_split(t))
        return;
    MICA_UNROLL(4)
    for (int c = 0; c < chunks; c++)
        low = vi_dot_u8s8(low, w[c], vb_load(x + 64 * (3 * c + 2)));
    d->low[i][set] = vf_fma(vf_from_vi(low), s, d->low[i][set]);
}

/* Of the lanes of chunk c: which unit of the panel they belong to. */
MICA_VEC vi unit_of(digit_kind t, int c)
{
    typedef int32_t lanes __attribute__((vector_size(64)));
    const lanes by_4 = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    const lanes by_8 = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    const lanes by_2 = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    if (t.order >= QUARTERS)
        return (vi)by_2;
    if (t.order == NATURAL)
        return t.unit == 16 ? (vi)(by_4 + 4 * c) : (vi)(by_8 + 2 * c);
    return t.order == ALTERNATE ? (vi)(2 * by_4 + c / 2) : (vi)(by_4 + 4 * (c / 2));
}

MICA_VEC void dot_panel(digit_kind t, const uint8_t *b, vf scale, vf least, digit_sums *d, int m,
                        const int8_t *x, ptrdiff_t ldx)
{
    const int together = together_in(t);
    vf s[MOST];
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++) {
        const float *xs = (const float *)(const void *)(x + i * ldx + t.digits * PANEL);
        s[i] = vf_mul(scale, vf_load(t.unit == 32 ? xs : xs + 16));
        d->offset[i] = t.unit == 32 ? vf_add(d->offset[i], s[i])
                                    : vf_fma(least, vf_load(xs + 32), d->offset[i]);
    }
    MICA_UNROLL(4)
    for (int c = 0; c < CHUNKS; c += together) {
        vb w[CHUNKS];
        MICA_UNROLL(4)
        for (int i = 0; i < together; i++)
            w[i] = t.read(b, c + i);
        MICA_UNROLL(4)
        for (int i = 0; i < m; i++)
            add_chunks(t, d, i, c / together % 2, together, w, x + i * ldx + 64 * t.digits * c,
                       vf_table(s[i], unit_of(t, c)));
    }
}

MICA_VEC float sum_of(digit_kind t, const digit_sums *d, int i)
{
    const vf offset = t.unit == 32 ? vf_upper(d->offset[i]) : d->offset[i];
    vf sum = vf_add(d->sum[i][0], d->sum[i][1]);
    if (is_split(t))
        sum = vf_fma(sum, vf_set1(256.0f), vf_add(d->low[i][0], d->low[i][1]));
    return vf_hsum(vf_fma(offset, vf_set1(t.offset), sum));
}

/* The panel's scales: from its blocks, or from the run's groups, n numbers from its first. */
MICA_VEC void take_scales(digit_kind t, const uint8_t *b, const group_scales *g, int k, vf *scale,
                          vf *least)
{
    if (t.kind != KIND_STREAM) {
        t.open(b, scale, least);
        return;
    }
    *scale = vf_from_groups(g->scale + (k >> g->shift), g->bias + (k >> g->shift), g->shift - 5);
}

MICA_VEC ptrdiff_t row_bytes(digit_kind t, int n)
{
    return t.kind == KIND_PLAIN ? n : (ptrdiff_t)n / 32 * t.size / (PANEL / 32);
}

/* A panel of which n numbers are left in the row, and zeros. */
MICA_VEC const uint8_t *copy_end(digit_kind t, const uint8_t *b, int n, uint8_t *panel)
{
    memset(panel, 0, LARGEST + OVER);
    memcpy(panel, b, (size_t)row_bytes(t, n < PANEL ? n : PANEL));
    return panel;
}

MICA_VEC void start_sums(digit_sums *d, int m)
{
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++) {
        d->offset[i] = vf_zero();
        MICA_UNROLL(2)
        for (int k = 0; k < 2; k++)
            d->sum[i][k] = d->low[i][k] = vf_zero();
    }
}

/* What is read later: with one row of x arithmetic hides little of memory's latency, and where a row, or a strip of it,
 * ends, the processor's own read-ahead begins anew. */
MICA_VEC void ask_for(const uint8_t *b, int size)
{
    for (int line = 0; line < size; line += 64)
        MICA_PREFETCH(b + line);
}

/* The same of scales and biases, which lie apart from the bits: of numbers [from, from + n) of the row that is read
 * when the bits asked for now are. */
MICA_VEC void ask_for_scales(digit_kind t, const mica_packed_rows *w, int r, int from, int n)
{
    const ptrdiff_t size = w->scale_type == MICA_PACKED_F32 ? 4 : 2;
    const ptrdiff_t row = r + (t.ahead > w->ld ? t.ahead / w->ld : 1);
    const ptrdiff_t at = (row * w->ld_scale + from / w->group) * size;
    for (ptrdiff_t line = 0; line < n / w->group * size; line += 64) {
        MICA_PREFETCH((const char *)w->scale + at + line);
        if (w->bias)
            MICA_PREFETCH((const char *)w->bias + at + line);
    }
}

/* Whole panels from b on that may be read with what follows them, at most `most`. */
MICA_VEC int readable(digit_kind t, const mica_packed_rows *w, const uint8_t *b, int most)
{
    const uint8_t *const end = (const uint8_t *)w->data + (w->rows - 1) * w->ld;
    const ptrdiff_t left = end + row_bytes(t, w->n) - OVER - b;
    return left < 0 ? 0 : left / t.size < most ? (int)(left / t.size) : most;
}

/* A row and numbers [from, from + n) of it; x from the same number on. m constant. */
MICA_VEC void dot_run(digit_kind t, const mica_packed_rows *w, int r, int from, int n, int m,
                      const int8_t *x, ptrdiff_t ldx, digit_sums *d)
{
    const uint8_t *b = (const uint8_t *)w->data + r * w->ld + (ptrdiff_t)from / PANEL * t.size;
    const int whole = readable(t, w, b, n / PANEL) * PANEL;
    uint8_t end[LARGEST + OVER];
    group_scales g;
    vf scale, least;
    if (t.kind == KIND_STREAM) {
        read_scales(w, r, from, n, &g);
        if (t.ahead)
            ask_for_scales(t, w, r, from, n);
    }
    int k = 0;
    for (; k < whole; k += PANEL, b += t.size, x += MICA_DIGITS_PANEL(t.digits)) {
        if (t.ahead)
            ask_for(b + t.ahead, t.size);
        take_scales(t, b, &g, k, &scale, &least);
        dot_panel(t, b, scale, least, d, m, x, ldx);
    }
    for (; k < n; k += PANEL, b += t.size, x += MICA_DIGITS_PANEL(t.digits)) {
        const uint8_t *panel = copy_end(t, b, n - k, end);
        take_scales(t, panel, &g, k, &scale, &least);
        dot_panel(t, panel, scale, least, d, m, x, ldx);
    }
}

MICA_VEC void finish_row(digit_kind t, const mica_packed_rows *w, int r, int m, const digit_sums *d,
                         float *y, ptrdiff_t ldy)
{
    MICA_UNROLL(4)
    for (int i = 0; i < m; i++)
        y[i * ldy + r] = (w->row_scale ? w->row_scale[r] : 1.0f) * sum_of(t, d, i);
}

/* Numbers of row r from `from` to `to`, m rows of x. */
MICA_VEC void dot_part(digit_kind t, const mica_packed_rows *w, int r, int from, int to, int m,
                       const int8_t *x, ptrdiff_t ldx, digit_sums *d)
{
    const int run = t.kind == KIND_STREAM ? SCALES_RUN : to - from;
    for (; from < to; from += run) {
        const int n = to - from < run ? to - from : run;
        dot_run(t, w, r, from, n, m, x + (ptrdiff_t)from / PANEL * MICA_DIGITS_PANEL(t.digits), ldx,
                d);
    }
}

/* GROUP rows of w from `row` on, `strip` numbers after the other. */
MICA_VEC void dot_group(digit_kind t, const mica_packed_rows *w, int row, int strip, int m,
                        const int8_t *x, float *y, ptrdiff_t ldy)
{
    const ptrdiff_t ldx = (ptrdiff_t)MICA_DIGITS_SIZE(w->n, t.digits);
    const int rows = w->rows - row < GROUP ? w->rows - row : GROUP;
    digit_sums d[GROUP];
    for (int r = 0; r < rows; r++)
        start_sums(&d[r], m);
    for (int from = 0; from < w->n; from += strip) {
        const int to = w->n - from < strip ? w->n : from + strip;
        for (int r = 0; r < rows; r++)
            dot_part(t, w, row + r, from, to, m, x, ldx, &d[r]);
    }
    for (int r = 0; r < rows; r++)
        finish_row(t, w, row + r, m, &d[r], y, ldy);
}

/* One row of x, and all of it in L1: a row of w from end to end, as memory likes it, its sums in registers. */
MICA_VEC void dot_whole(digit_kind t, const mica_packed_rows *w, const int8_t *x, float *y)
{
    t.ahead = AHEAD;
    for (int r = 0; r < w->rows; r++) {
        digit_sums d;
        start_sums(&d, 1);
        dot_part(t, w, r, 0, w->n, 1, x, 0, &d);
        finish_row(t, w, r, 1, &d, y, 0);
    }
}

/* One row of x; a longer one in equal strips that L1 holds. */
MICA_VEC void dot_one(digit_kind t, const mica_packed_rows *w, const int8_t *x, float *y)
{
    const int panels = (w->n + PANEL - 1) / PANEL, most = STRIP / (t.digits + 1) / PANEL;
    const int strips = (panels + most - 1) / most;
    if (strips <= 1) {
        dot_whole(t, w, x, y);
        return;
    }
    t.ahead = w->ld; /* the same panel of the next row */
    for (int row = 0; row < w->rows; row += GROUP)
        dot_group(t, w, row, (panels + strips - 1) / strips * PANEL, 1, x, y, 0);
}

/* 2 or 4 rows of x (m, constant): a run of 1024 of x stays in L1 while GROUP rows of w pass. */
MICA_VEC void dot_some(digit_kind t, const mica_packed_rows *w, int m, const int8_t *x, float *y,
                       ptrdiff_t ldy)
{
    for (int row = 0; row < w->rows; row += GROUP)
        dot_group(t, w, row, RUN, m, x, y, ldy);
}

typedef void dot_few(const mica_packed_rows *w, int m, const int8_t *x, float *y, ptrdiff_t ldy);

/* m and all of t constant. */
MICA_VEC void dot(digit_kind t, const mica_packed_rows *w, int m, const int8_t *x, float *y,
                  ptrdiff_t ldy)
{
    if (m == 1)
        dot_one(t, w, x, y);
    else if (m == 2)
        dot_some(t, w, 2, x, y, ldy);
    else
        dot_some(t, w, MOST, x, y, ldy);
}

#define DEFINE_FOR(DIGITS, NAME, OPEN_, READ_, SIZE, KIND, ORDER, UNIT, WIDE, OFFSET)              \
    static void dot_##NAME##_##DIGITS(const mica_packed_rows *w, int m, const int8_t *x, float *y, \
                                      ptrdiff_t ldy)                                               \
    {                                                                                              \
        const digit_kind t = {DIGITS, SIZE,   KIND_##KIND,  ORDER,        UNIT,                    \
                              WIDE,   OFFSET, open_##OPEN_, read_##READ_, 0};                      \
        dot(t, w, m, x, y, ldy);                                                                   \
    }
#define DEFINE(...) DEFINE_FOR(1, __VA_ARGS__) DEFINE_FOR(2, __VA_ARGS__) DEFINE_FOR(3, __VA_ARGS__)
DIGIT_TYPES(DEFINE)

/* clang-format off */
static dot_few *const FUNCTIONS[MICA_PACKED_COUNT][MICA_DIGITS_MOST] = {
#define ENTRY(NAME, OPEN_, READ_, SIZE, KIND, ORDER, UNIT, WIDE, OFFSET) \
    [MICA_PACKED_##NAME] = {dot_##NAME##_1, dot_##NAME##_2, dot_##NAME##_3},
    DIGIT_TYPES(ENTRY)
};
/* clang-format on */

void MICA_K(dot_digits)(const mica_packed_rows *w, int digits, int m, const int8_t *x, float *y,
                        ptrdiff_t ldy)
{
    const ptrdiff_t ldx = (ptrdiff_t)MICA_DIGITS_SIZE(w->n, digits);
    for (int i = 0; i < m;) {
        const int left = m - i, take = left >= MOST ? MOST : left >= 2 ? 2 : 1;
        FUNCTIONS[w->type][digits - 1](w, take, x + i * ldx, y + i * ldy, ldy);
        i += take;
    }
}

/* ---------------------------------------------------------------- digits of x -- */

/* How x is written: constant wherever it is used. */
typedef struct digit_form {
    int digits, order;
    float large; /* the largest X: its digits are 127 at most, whatever the roundings of x / s */
} digit_form;

/* Where 16 numbers of block `block` go, the first (even) ones or the others; of QUARTERS and FOURTHS 8 of them, and
 * the others eight_apart bytes behind. */
MICA_VEC int eight_apart(digit_form f)
{
    return f.order < QUARTERS ? 8 : 64 * f.digits * (f.order == QUARTERS ? 1 : 2);
}
MICA_VEC int8_t *place_of(digit_form f, int8_t *panel, int block, int second)
{
    const int chunk = 64 * f.digits;
    if (f.order == NATURAL)
        return panel + chunk * (block / 2) + 32 * (block % 2) + 16 * second;
    if (f.order >= QUARTERS)
        return panel + chunk * (f.order == QUARTERS ? 2 * second : second) + 8 * block;
    if (f.order == ALTERNATE)
        return panel + chunk * (2 * (block % 2) + second) + 16 * (block / 2);
    return panel + chunk * (2 * (block / 4) + second) + 16 * (block % 4);
}

/* 16 numbers, the lowest digit last; returns the sum of X. */
MICA_VEC int32_t write_digits(digit_form f, vf x, vf factor, int8_t *to)
{
    const vi whole = vi_round(vf_mul(x, factor)), half = vi_set1(128);
    vi rest = whole;
    MICA_UNROLL(3)
    for (int digit = f.digits - 1; digit >= 0; digit--) {
        vi_to_s8(to + 64 * digit, to + 64 * digit + eight_apart(f), rest);
        rest = vi_sar(vi_add(rest, half), 8);
    }
    return vi_hsum(whole);
}

/* The 32 numbers of a block. */
MICA_VEC void write_block(digit_form f, vf a, vf b, int8_t *panel, int block)
{
    const float most = vf_largest(a, b);
    const bool tiny = most < 0x1p-100f, finite = most <= 0x1.fffffep127f;
    const float s = !finite ? most - most : tiny ? 0.0f : most * (1.0f / f.large);
    const vf factor = vf_set1(tiny || !finite ? 0.0f : f.large / most);
    float *scale = (float *)(void *)(panel + f.digits * PANEL);
    if (f.order == EVEN_ODD || f.order == FOURTHS)
        vf_unzip(&a, &b);
    if (f.order == FOURTHS) {
        a = vf_even_first(a);
        b = vf_even_first(b);
    }
    const float first = s * (float)write_digits(f, a, factor, place_of(f, panel, block, 0));
    const float second = s * (float)write_digits(f, b, factor, place_of(f, panel, block, 1));
    scale[block] = scale[16 + 2 * block] = scale[17 + 2 * block] = s;
    scale[8 + block] = first + second;
    scale[32 + 2 * block] = first;
    scale[33 + 2 * block] = second;
}

MICA_VEC vf load_first(const float *x, int n)
{
    return n >= MICA_W ? vf_load(x) : n > 0 ? vf_load_n(x, n) : vf_zero();
}

MICA_VEC void write_rows(digit_form f, int m, int n, const float *x, ptrdiff_t ldx, int8_t *dst)
{
    for (int i = 0; i < m; i++, x += ldx)
        for (int k = 0; k < n; k += PANEL, dst += MICA_DIGITS_PANEL(f.digits))
            for (int j = 0; j < PANEL; j += 32)
                write_block(f, load_first(x + k + j, n - k - j),
                            load_first(x + k + j + 16, n - k - j - 16), dst, j / 32);
}

void MICA_K(digits_from_f32)(mica_packed type, int digits, int m, int n, const float *x,
                             ptrdiff_t ldx, int8_t *dst)
{
    static const uint8_t ORDERS[MICA_PACKED_COUNT] = {
#define ORDER_OF(NAME, OPEN_, READ_, SIZE, KIND, ORDER, UNIT, WIDE, OFFSET)                        \
    [MICA_PACKED_##NAME] = ORDER,
        DIGIT_TYPES(ORDER_OF)};
    const int order = ORDERS[type];
    if (digits == 1)
        write_rows((digit_form){1, order, 127.0f}, m, n, x, ldx, dst);
    else if (digits == 2)
        write_rows((digit_form){2, order, 32600.0f}, m, n, x, ldx, dst);
    else
        write_rows((digit_form){3, order, 8355000.0f}, m, n, x, ldx, dst);
}
