/* chinese_hmm.c - Viterbi over the two models (jieba's finalseg and posseg/viterbi.py).
 *
 *     cost[i][state] = max over states before of cost[i-1][s] + link[s][state], + emission
 *
 * Costs are sums of natural logarithms in thousandths, as the table has them; "never" is far
 * below anything real, so that a path through it loses to every other. */
#include "speech/chinese_hmm.h"

#include "base/mem.h"

#include <string.h>

#define HEADER   24
#define NEVER    (-3000000) /* one of them outweighs a thousand characters */
#define STATE    8
#define STATES   256 /* a state is a byte */
#define LINK     4
#define EMISSION 3
#define CUT_CHAR 10
#define MOST     (1u << 20)

static int cost_of(const uint8_t *p)
{
    const int32_t v = mica_table_i16(p);
    return v == -32768 ? NEVER : v;
}

mica_status mica_chinese_hmm_init(mica_chinese_hmm *h, mica_speech_table table, mica_err *err)
{
    const uint8_t *p = table.data;
    *h = (mica_chinese_hmm){.table = table};
    if (table.size < HEADER + 40 || memcmp(p, "MZM1", 4) != 0)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of word models is not what it should be");
    h->cut_count = mica_table_u32(p + 4);
    h->tag_count = mica_table_u32(p + 8);
    h->state_count = mica_table_u32(p + 12);
    h->link_count = mica_table_u32(p + 16);
    h->emission_count = mica_table_u32(p + 20);
    if (h->cut_count > MOST || h->tag_count > MOST || h->state_count > 255 ||
        h->link_count > MOST || h->emission_count > MOST)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of word models does not hold together");
    h->start = p + HEADER;
    h->cut_chars = h->start + 40;
    h->states = h->cut_chars + (size_t)CUT_CHAR * h->cut_count;
    h->links = h->states + (size_t)STATE * h->state_count;
    h->tag_chars = h->links + (size_t)LINK * h->link_count;
    h->emissions = h->tag_chars + 4 * (size_t)h->tag_count;
    if ((size_t)(h->emissions - p) + (size_t)EMISSION * h->emission_count != table.size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the table of word models has another size");
    h->dense = mica_mem_alloc((size_t)STATES * STATES * sizeof *h->dense);
    if (h->dense == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for the models of unknown words");
    for (size_t i = 0; i < (size_t)STATES * STATES; i++)
        h->dense[i] = -32768;
    for (uint32_t i = 0; i < h->link_count; i++) {
        const uint8_t *link = h->links + (size_t)LINK * i;
        h->dense[(size_t)link[0] * STATES + link[1]] = (int16_t)mica_table_i16(link + 2);
    }
    return MICA_OK;
}

void mica_chinese_hmm_deinit(mica_chinese_hmm *h)
{
    mica_mem_free(h->dense);
    h->dense = NULL;
}

/* ---- begin, middle, end, single: the order of the table is B E M S ---- */

typedef struct cell {
    int cost[4];
    uint8_t from[4];
} cell;

static int emission4(const mica_chinese_hmm *h, uint32_t cp, int state)
{
    const uint8_t *row = mica_table_find_row(h->cut_chars, h->cut_count, CUT_CHAR, cp);
    return row != NULL ? cost_of(row + 2 + 2 * state) : NEVER;
}

static void step4(const mica_chinese_hmm *h, const cell *before, cell *c, uint32_t cp)
{
    for (int state = 0; state < 4; state++) {
        int best = INT32_MIN;
        for (int from = 0; from < 4; from++) {
            const int cost = before->cost[from] + cost_of(h->start + 8 + 2 * (4 * from + state));
            if (cost > best) {
                best = cost;
                c->from[state] = (uint8_t)from;
            }
        }
        c->cost[state] = MICA_MAX(best + emission4(h, cp, state), INT32_MIN / 4);
    }
}

bool mica_chinese_hmm_cut(const mica_chinese_hmm *h, const uint32_t *text, size_t size, bool *ends,
                          mica_arena *scratch)
{
    const mica_arena_mark mark = mica_arena_get_mark(scratch);
    cell *cells = size > 0 ? mica_arena_calloc(scratch, size, sizeof *cells) : NULL;
    if (cells == NULL)
        return size == 0;
    for (int state = 0; state < 4; state++)
        cells[0].cost[state] = cost_of(h->start + 2 * state) + emission4(h, text[0], state);
    for (size_t i = 1; i < size; i++)
        step4(h, &cells[i - 1], &cells[i], text[i]);
    /* a word must end: E or S */
    int state = cells[size - 1].cost[1] > cells[size - 1].cost[3] ? 1 : 3;
    for (size_t i = size; i-- > 0; state = cells[i].from[state])
        ends[i] = state == 1 || state == 3 || i + 1 == size;
    mica_arena_release(scratch, mark);
    return true;
}

/* ---- with classes ---- */

typedef struct node {
    int cost;
    uint8_t state;
    int from; /* index among the nodes of the character before */
} node;

typedef struct column {
    node *nodes;
    size_t count;
} column;

static int find_link(const mica_chinese_hmm *h, uint8_t from, uint8_t to)
{
    const int cost = h->dense[(size_t)from * STATES + to];
    return cost == -32768 ? NEVER : cost;
}

/* First emission of each character: counts are added up to it. */
static uint32_t first_emission(const mica_chinese_hmm *h, const uint8_t *row)
{
    uint32_t at = 0;
    for (const uint8_t *r = h->tag_chars; r < row; r += 4)
        at += mica_table_u16(r + 2);
    return at;
}

/* The states that a character can have; all of them when it is unknown. */
static bool fill_column(const mica_chinese_hmm *h, uint32_t cp, column *c, mica_arena *arena)
{
    const uint8_t *row = mica_table_find_row(h->tag_chars, h->tag_count, 4, cp);
    const uint32_t first = row != NULL ? first_emission(h, row) : 0;
    c->count = row != NULL ? mica_table_u16(row + 2) : h->state_count;
    if (first + (row != NULL ? c->count : 0) > h->emission_count)
        return false;
    c->nodes = mica_arena_alloc(arena, (c->count + 1) * sizeof *c->nodes);
    for (size_t i = 0; c->nodes != NULL && i < c->count; i++) {
        const uint8_t *e = h->emissions + (size_t)EMISSION * (first + i);
        c->nodes[i] = row != NULL ? (node){cost_of(e + 1), e[0], 0} : (node){NEVER, (uint8_t)i, 0};
    }
    return c->nodes != NULL && c->count > 0;
}

static void step_column(const mica_chinese_hmm *h, const column *before, column *c)
{
    for (size_t i = 0; i < c->count; i++) {
        int best = INT32_MIN;
        for (size_t j = 0; j < before->count; j++) {
            const int cost =
                before->nodes[j].cost + find_link(h, before->nodes[j].state, c->nodes[i].state);
            if (cost > best) {
                best = cost;
                c->nodes[i].from = (int)j;
            }
        }
        c->nodes[i].cost = MICA_MAX(best + c->nodes[i].cost, INT32_MIN / 4);
    }
}

static void trace_back(const mica_chinese_hmm *h, const column *columns, size_t size, bool *ends,
                       mica_chinese_tag *tags)
{
    size_t at = 0;
    const column *last = &columns[size - 1];
    for (size_t i = 1; i < last->count; i++)
        if (last->nodes[i].cost > last->nodes[at].cost)
            at = i;
    for (size_t i = size; i-- > 0;) {
        const node *n = &columns[i].nodes[at];
        const uint8_t *state = h->states + (size_t)STATE * n->state;
        ends[i] = state[0] == 1 || state[0] == 3 || i + 1 == size;
        memset(&tags[i], 0, sizeof tags[i]);
        memcpy(tags[i].name, state + 2, 4);
        at = (size_t)n->from;
    }
}

bool mica_chinese_hmm_tag(const mica_chinese_hmm *h, const uint32_t *text, size_t size, bool *ends,
                          mica_chinese_tag *tags, mica_arena *scratch)
{
    const mica_arena_mark mark = mica_arena_get_mark(scratch);
    column *columns = size > 0 ? mica_arena_alloc(scratch, size * sizeof *columns) : NULL;
    bool ok = columns != NULL;
    for (size_t i = 0; ok && i < size; i++) {
        ok = fill_column(h, text[i], &columns[i], scratch);
        if (ok && i == 0)
            for (size_t j = 0; j < columns[0].count; j++) {
                node *n = &columns[0].nodes[j];
                n->cost += cost_of(h->states + (size_t)STATE * n->state + 6);
            }
        else if (ok)
            step_column(h, &columns[i - 1], &columns[i]);
    }
    if (ok)
        trace_back(h, columns, size, ends, tags);
    mica_arena_release(scratch, mark);
    return ok || size == 0;
}
