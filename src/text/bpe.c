/* bpe.c - the merge table and the merge loop.
 *
 *     symbols   [Ġ]⇄[t]⇄[h]⇄[e]        doubly linked, in place; a merge keeps the left
 *                                        symbol and unlinks the right one
 *     heap      (rank, position, result)  candidates, smallest rank first, then leftmost
 *
 * A candidate goes stale when one of its symbols is merged away. It is not searched for and
 * removed but recognised when it comes up: the pair at its position no longer merges into
 * its result (the test of models/bpe/word.rs, Word::merge_all).
 * At most n - 1 initial candidates, and each of at most n - 1 merges removes one and adds
 * two: the heap never exceeds 2n. */
#include "text/bpe.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/byte_alphabet.h"

#include <stdio.h>
#include <string.h>

#define MIN_SLOTS 1024
#define GONE      (-1) /* id of a symbol merged into its left neighbour */
#define NO_SYMBOL (-1)

typedef struct mica_bpe_symbol {
    int32_t id, prev, next;
} symbol;

typedef struct mica_bpe_candidate {
    uint64_t key; /* rank << 32 | position */
    int32_t result;
} candidate;

void mica_bpe_deinit(mica_bpe *b)
{
    mica_mem_free(b->slots);
    memset(b, 0, sizeof *b);
}

void mica_bpe_scratch_deinit(mica_bpe_scratch *s)
{
    mica_mem_free(s->symbols);
    mica_mem_free(s->heap);
    mica_mem_free(s->spelling);
    memset(s, 0, sizeof *s);
}

mica_status mica_id_list_push(mica_id_list *list, int32_t id, mica_err *err)
{
    if (!mica_array_reserve((void **)&list->ids, &list->cap, list->count + 1, sizeof *list->ids))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for %zu token ids", list->count + 1);
    list->ids[list->count++] = id;
    return MICA_OK;
}

/* ---- merge table ---- */

static size_t home_slot(const mica_bpe *b, uint64_t pair)
{
    const uint64_t h = pair * 0x9e3779b97f4a7c15u; /* golden ratio: spreads both ids upwards */
    return (size_t)((h ^ (h >> 32)) & (b->slot_count - 1));
}

static mica_bpe_merge *find_slot(const mica_bpe *b, uint64_t pair)
{
    const size_t mask = b->slot_count - 1;
    size_t i = home_slot(b, pair);
    while (b->slots[i].pair != pair && b->slots[i].pair != MICA_BPE_FREE_PAIR)
        i = (i + 1) & mask;
    return &b->slots[i];
}

static bool grow_slots(mica_bpe *b)
{
    if (b->slot_count >= 2 * (b->count + 1))
        return true;
    mica_bpe_merge *old = b->slots;
    const size_t old_count = b->slot_count, count = old_count > 0 ? old_count * 2 : MIN_SLOTS;
    mica_bpe_merge *slots = mica_mem_calloc(count, sizeof *slots);
    if (slots == NULL)
        return false;
    for (size_t i = 0; i < count; i++)
        slots[i].pair = MICA_BPE_FREE_PAIR;
    b->slots = slots;
    b->slot_count = count;
    for (size_t i = 0; i < old_count; i++)
        if (old[i].pair != MICA_BPE_FREE_PAIR)
            *find_slot(b, old[i].pair) = old[i];
    mica_mem_free(old);
    return true;
}

mica_status mica_bpe_bind_bytes(mica_bpe *b, const mica_vocab *v, const char *name, mica_err *err)
{
    if (!grow_slots(b)) /* also what lets find_merge run on a table without merges */
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the merge table", name);
    for (int byte = 0; byte < 256; byte++) {
        char spelling[4];
        const size_t size = mica_utf8_encode(mica_byte_to_symbol((uint8_t)byte), spelling);
        const mica_vocab_entry *e = mica_vocab_find(v, spelling, size);
        if (e == NULL)
            return MICA_FAIL(err, MICA_E_FORMAT,
                             "%s: the vocabulary has no token \"%.*s\" for byte 0x%02x; it is not "
                             "a byte-level vocabulary",
                             name, (int)size, spelling, (unsigned)byte);
        b->byte_id[byte] = e->id;
    }
    return MICA_OK;
}

mica_status mica_bpe_bind_characters(mica_bpe *b, const mica_vocab *v, const char *name,
                                     bool fallback, const char *unknown, mica_err *err)
{
    if (!grow_slots(b))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the merge table", name);
    b->characters = true;
    b->unknown = -1;
    for (int byte = 0; byte < 256; byte++) {
        char spelling[8];
        snprintf(spelling, sizeof spelling, "<0x%02X>", (unsigned)byte);
        const mica_vocab_entry *e = fallback ? mica_vocab_find(v, spelling, 6) : NULL;
        b->byte_id[byte] = e != NULL ? e->id : -1;
    }
    if (unknown == NULL || unknown[0] == '\0')
        return MICA_OK;
    const mica_vocab_entry *e = mica_vocab_find(v, unknown, strlen(unknown));
    if (e == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the vocabulary lacks its unknown token \"%s\"",
                         name, mica_token_printable(unknown, strlen(unknown)).text);
    b->unknown = e->id;
    return MICA_OK;
}

static uint64_t make_pair(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* NULL: the two do not merge. */
static const mica_bpe_merge *find_merge(const mica_bpe *b, int32_t left, int32_t right)
{
    const mica_bpe_merge *m = find_slot(b, make_pair(left, right));
    return m->pair != MICA_BPE_FREE_PAIR ? m : NULL;
}

static mica_status find_part(const mica_bpe *b, const mica_vocab *v, const char *name,
                             const char *token, size_t size, int32_t *id, mica_err *err)
{
    const mica_vocab_entry *e = mica_vocab_find(v, token, size);
    if (e == NULL)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: merge %u needs token \"%s\", which the vocabulary lacks", name,
                         (unsigned)b->next_rank, mica_token_printable(token, size).text);
    *id = e->id;
    return MICA_OK;
}

/* The token that a merge makes. Trainers number tokens in the order of their merges, so the id
 * behind the last result is tried before the table is asked. */
static mica_status find_joined(mica_bpe *b, const mica_vocab *v, const char *name,
                               const char *joined, size_t size, int32_t *id, mica_err *err)
{
    const mica_vocab_entry *e = mica_vocab_get(v, (int64_t)b->last_result + 1);
    if (e != NULL && e->size == size && memcmp(mica_vocab_text(v, e), joined, size) == 0)
        *id = e->id;
    else
        MICA_TRY(find_part(b, v, name, joined, size, id, err));
    b->last_result = *id;
    return MICA_OK;
}

mica_status mica_bpe_add_merge(mica_bpe *b, const mica_vocab *v, const char *name, const char *left,
                               size_t left_size, const char *right, size_t right_size,
                               mica_err *err)
{
    char joined[2 * MICA_TOKEN_MAX_SIZE];
    int32_t left_id = 0, right_id = 0, result = 0;
    MICA_TRY(find_part(b, v, name, left, left_size, &left_id, err));
    MICA_TRY(find_part(b, v, name, right, right_size, &right_id, err));
    memcpy(joined, left, left_size); /* both are tokens, hence within MICA_TOKEN_MAX_SIZE */
    memcpy(joined + left_size, right, right_size);
    MICA_TRY(find_joined(b, v, name, joined, left_size + right_size, &result, err));
    if (!grow_slots(b))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for merge %u", name,
                         (unsigned)b->next_rank);
    mica_bpe_merge *m = find_slot(b, make_pair(left_id, right_id));
    b->count += m->pair == MICA_BPE_FREE_PAIR;
    *m = (mica_bpe_merge){
        .pair = make_pair(left_id, right_id), .rank = b->next_rank++, .result = result};
    return MICA_OK;
}

/* ---- candidates: a binary min-heap on key ---- */

static void heap_push(mica_bpe_scratch *s, candidate c)
{
    size_t i = s->heap_count++;
    while (i > 0 && c.key < s->heap[(i - 1) / 2].key) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = c;
}

static candidate heap_pop(mica_bpe_scratch *s)
{
    const candidate top = s->heap[0], last = s->heap[--s->heap_count];
    const size_t n = s->heap_count;
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && s->heap[child + 1].key < s->heap[child].key)
            child++;
        if (last.key <= s->heap[child].key)
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

/* A candidate for the symbols at `left` and its right neighbour, if they merge. */
static void propose(const mica_bpe *b, mica_bpe_scratch *s, int32_t left)
{
    const int32_t right = left != NO_SYMBOL ? s->symbols[left].next : NO_SYMBOL;
    if (right == NO_SYMBOL)
        return;
    const mica_bpe_merge *m = find_merge(b, s->symbols[left].id, s->symbols[right].id);
    if (m != NULL)
        heap_push(
            s, (candidate){.key = (uint64_t)m->rank << 32 | (uint32_t)left, .result = m->result});
}

/* ---- one piece ---- */

static mica_status reserve(mica_bpe_scratch *s, size_t size, mica_err *err)
{
    if (size > INT32_MAX / 4)
        return MICA_FAIL(err, MICA_E_USAGE, "a piece of text has %zu bytes, at most %d are taken",
                         size, INT32_MAX / 4);
    if (!mica_array_reserve((void **)&s->symbols, &s->symbol_cap, size, sizeof *s->symbols) ||
        !mica_array_reserve((void **)&s->heap, &s->heap_cap, 2 * size, sizeof *s->heap))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to merge %zu bytes of text", size);
    return MICA_OK;
}

/* Symbols being written: n of them, and an unknown token that waits for the next character with a token
 * of its own. Byte tokens overtake it, as in models/bpe/model.rs (BPE::merge_word). */
typedef struct spreading {
    symbol *symbols;
    int32_t n;
    bool unknown_waits;
} spreading;

static void end_unknown(const mica_bpe *b, spreading *w)
{
    if (w->unknown_waits && b->unknown >= 0)
        w->symbols[w->n++].id = b->unknown;
    w->unknown_waits = false;
}

static void spread_character(const mica_bpe *b, const mica_vocab *v, spreading *w, const char *at,
                             size_t size)
{
    const mica_vocab_entry *e = mica_vocab_find(v, at, size);
    size_t bytes = 0;
    if (e != NULL) {
        end_unknown(b, w);
        w->symbols[w->n++].id = e->id;
        return;
    }
    while (bytes < size && b->byte_id[(uint8_t)at[bytes]] >= 0)
        bytes++;
    for (size_t i = 0; bytes == size && i < size; i++)
        w->symbols[w->n++].id = b->byte_id[(uint8_t)at[i]];
    if (bytes < size) {
        if (!b->fuse_unknown)
            end_unknown(b, w);
        w->unknown_waits = true;
    }
}

/* At most one symbol a byte. */
static int32_t spread_characters(const mica_bpe *b, const mica_vocab *v, mica_bpe_scratch *s,
                                 const char *piece, size_t size)
{
    spreading w = {.symbols = s->symbols};
    for (size_t i = 0, step; i < size; i += step) {
        uint32_t cp;
        step = mica_utf8_decode(piece + i, size - i, &cp);
        spread_character(b, v, &w, piece + i, step);
    }
    end_unknown(b, &w);
    return w.n;
}

static int32_t spread(const mica_bpe *b, const mica_vocab *v, mica_bpe_scratch *s,
                      const char *piece, size_t size)
{
    int32_t n = (int32_t)size;
    if (b->characters)
        n = spread_characters(b, v, s, piece, size);
    else
        for (int32_t i = 0; i < n; i++)
            s->symbols[i].id = b->byte_id[(uint8_t)piece[i]];
    for (int32_t i = 0; i < n; i++) {
        s->symbols[i].prev = i - 1;
        s->symbols[i].next = i + 1 < n ? i + 1 : NO_SYMBOL;
    }
    s->heap_count = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        propose(b, s, i);
    return n;
}

static void merge_all(const mica_bpe *b, mica_bpe_scratch *s)
{
    while (s->heap_count > 0) {
        const candidate top = heap_pop(s);
        const int32_t at = (int32_t)(top.key & UINT32_MAX);
        symbol *left = &s->symbols[at];
        if (left->id == GONE || left->next == NO_SYMBOL)
            continue;
        symbol *right = &s->symbols[left->next];
        const mica_bpe_merge *m = find_merge(b, left->id, right->id);
        if (m == NULL || m->result != top.result)
            continue; /* stale */
        left->id = top.result;
        right->id = GONE;
        left->next = right->next;
        if (right->next != NO_SYMBOL)
            s->symbols[right->next].prev = at;
        propose(b, s, left->prev);
        propose(b, s, at);
    }
}

/* True and one id appended when the piece as a whole is a token. */
static mica_status try_whole(const mica_bpe *b, const mica_vocab *v, const char *piece, size_t size,
                             mica_bpe_scratch *s, mica_id_list *out, bool *done, mica_err *err)
{
    size_t used = 0;
    *done = false;
    if (size > MICA_TOKEN_MAX_SIZE)
        return MICA_OK;
    if (b->characters) {
        const mica_vocab_entry *whole = mica_vocab_find(v, piece, size);
        *done = whole != NULL;
        return whole != NULL ? mica_id_list_push(out, whole->id, err) : MICA_OK;
    }
    if (!mica_array_reserve((void **)&s->spelling, &s->spelling_cap, 2 * size, 1))
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to spell %zu bytes of text", size);
    for (size_t i = 0; i < size; i++) /* the alphabet ends at U+0143: two bytes at most */
        used += mica_utf8_encode(mica_byte_to_symbol((uint8_t)piece[i]), s->spelling + used);
    const mica_vocab_entry *e = mica_vocab_find(v, s->spelling, used);
    if (e == NULL)
        return MICA_OK;
    *done = true;
    return mica_id_list_push(out, e->id, err);
}

mica_status mica_bpe_encode(const mica_bpe *b, const mica_vocab *v, const char *piece, size_t size,
                            mica_bpe_scratch *s, mica_id_list *out, mica_err *err)
{
    if (size == 0)
        return MICA_OK;
    if (size == 1 && !b->characters)
        return mica_id_list_push(out, b->byte_id[(uint8_t)piece[0]], err);
    if (b->ignore_merges) {
        bool done;
        MICA_TRY(try_whole(b, v, piece, size, s, out, &done, err));
        if (done)
            return MICA_OK;
    }
    MICA_TRY(reserve(s, size, err));
    const int32_t n = spread(b, v, s, piece, size);
    merge_all(b, s);
    for (int32_t i = n > 0 ? 0 : NO_SYMBOL; i != NO_SYMBOL; i = s->symbols[i].next)
        MICA_TRY(mica_id_list_push(out, s->symbols[i].id, err));
    return MICA_OK;
}
