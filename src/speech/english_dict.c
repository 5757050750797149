/* english_dict.c - the readers of english.bin and letters.bin (layouts: tools/speech_tables/english.py).
 *
 * Words lie sorted in blocks of 32, front-coded: bisection over the first words, then a walk. A code
 * above 68 stands for two codes. Offsets are checked at every step, so that a damaged table
 * gives wrong phones and nothing worse. */
#include "speech/english_dict.h"

#include <string.h>

#define BLOCK      32
#define NODE       4
#define LEAF       255
#define NONE       254
#define MAX_DEPTH  4096 /* questions of one tree */
#define PAIR_DEPTH 32

static const char names[MICA_ENGLISH_PHONES][4] = {
    "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1", "AO2",
    "AW0", "AW1", "AW2", "AY0", "AY1", "AY2", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2",
    "EY0", "EY1", "EY2", "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "OW0", "OW1", "OW2",
    "OY0", "OY1", "OY2", "UH0", "UH1", "UH2", "UW0", "UW1", "UW2", "B",   "CH",  "D",
    "DH",  "F",   "G",   "HH",  "JH",  "K",   "L",   "M",   "N",   "NG",  "P",   "R",
    "S",   "SH",  "T",   "TH",  "V",   "W",   "Y",   "Z",   "ZH"};

const char *mica_english_phone_name(int code)
{
    return code >= 0 && code < MICA_ENGLISH_PHONES ? names[code] : NULL;
}

int mica_english_phone_find(const char *name, size_t size)
{
    for (int i = 0; i < MICA_ENGLISH_PHONES; i++)
        if (strlen(names[i]) == size && memcmp(names[i], name, size) == 0)
            return i;
    return -1;
}

mica_status mica_english_dict_init(mica_english_dict *d, mica_speech_table words,
                                   mica_speech_table letters, mica_err *err)
{
    const uint8_t *w = words.data, *l = letters.data;
    *d = (mica_english_dict){.words = words, .letters = letters};
    if (words.size < 16 || memcmp(w, "MEN1", 4) != 0 || letters.size < 4 + 27 * 4 ||
        memcmp(l, "MLT1", 4) != 0)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the English tables are not what they should be");
    d->block_count = mica_table_u32(w + 8);
    d->pair_count = mica_table_u32(w + 12);
    d->pairs = w + 16;
    d->offsets = d->pairs + 2 * (size_t)d->pair_count;
    d->node_count = mica_table_u32(l + 4 + 26 * 4);
    d->nodes = l + 4 + 27 * 4;
    if (d->pair_count != 256 - MICA_ENGLISH_PHONES || d->block_count == 0 ||
        d->block_count > words.size / 4 ||
        16 + 2 * (size_t)d->pair_count + 4 * ((size_t)d->block_count + 1) > words.size ||
        4 + 27 * 4 + (size_t)d->node_count * NODE != letters.size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "the English tables do not hold together");
    return MICA_OK;
}

/* ---- the dictionary ---- */

typedef struct reader {
    const uint8_t *at, *end;
    char word[2 * MICA_ENGLISH_MAX_WORD];
    size_t size;
    const uint8_t *codes;
    size_t code_count;
} reader;

static size_t long_nibble(reader *r, unsigned nibble)
{
    size_t n = nibble;
    if (nibble == 15)
        n += r->at < r->end ? *r->at++ : 0;
    return n;
}

/* The next entry of the block; false: the end, or bytes that make none. */
static bool read_entry(reader *r)
{
    if (r->at >= r->end)
        return false;
    const uint8_t head = *r->at++;
    const size_t shared = long_nibble(r, head >> 4), fresh = long_nibble(r, head & 15);
    if (shared > r->size || shared + fresh > sizeof r->word || fresh + 1 > (size_t)(r->end - r->at))
        return false;
    memcpy(r->word + shared, r->at, fresh);
    r->size = shared + fresh;
    r->at += fresh;
    r->code_count = *r->at++;
    if (r->code_count > (size_t)(r->end - r->at))
        return false;
    r->codes = r->at;
    r->at += r->code_count;
    return true;
}

static bool open_block(const mica_english_dict *d, uint32_t block, reader *r)
{
    const uint32_t begin = mica_table_u32(d->offsets + 4 * (size_t)block);
    const uint32_t end = mica_table_u32(d->offsets + 4 * ((size_t)block + 1));
    if (begin > end || end > d->words.size)
        return false;
    r->at = d->words.data + begin;
    r->end = d->words.data + end;
    r->size = 0;
    return read_entry(r);
}

static int compare(const reader *r, const char *word, size_t size)
{
    const int order = memcmp(r->word, word, MICA_MIN(r->size, size));
    return order != 0 ? order : (r->size > size) - (r->size < size);
}

/* A code or, through the pairs, what it stands for. */
static bool expand(const mica_english_dict *d, uint8_t code, int depth,
                   uint8_t out[MICA_ENGLISH_MOST], size_t *count)
{
    if (code < MICA_ENGLISH_PHONES) {
        if (*count >= MICA_ENGLISH_MOST)
            return false;
        out[(*count)++] = code;
        return true;
    }
    const uint8_t *pair = d->pairs + 2 * (size_t)(code - MICA_ENGLISH_PHONES);
    return depth < PAIR_DEPTH && expand(d, pair[0], depth + 1, out, count) &&
           expand(d, pair[1], depth + 1, out, count);
}

size_t mica_english_dict_find(const mica_english_dict *d, const char *word, size_t size,
                              uint8_t phones[MICA_ENGLISH_MOST])
{
    reader r;
    uint32_t low = 0, high = d->block_count; /* the last block whose first word is not above */
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (!open_block(d, middle, &r))
            return 0;
        if (compare(&r, word, size) <= 0)
            low = middle;
        else
            high = middle;
    }
    if (!open_block(d, low, &r))
        return 0;
    do {
        const int order = compare(&r, word, size);
        if (order > 0)
            return 0;
        if (order == 0) {
            size_t count = 0;
            for (size_t i = 0; i < r.code_count; i++)
                if (!expand(d, r.codes[i], 0, phones, &count))
                    return 0;
            return count;
        }
    } while (read_entry(&r));
    return 0;
}

/* ---- the trees ---- */

/* The letter at a place around `at` (0..3 before, 4..7 behind); 0 beyond the word. */
static uint8_t neighbour(const char *word, size_t size, size_t at, unsigned place)
{
    const size_t back = 4 - (size_t)place, ahead = (size_t)place - 3;
    if (place < 4)
        return at >= back ? (uint8_t)word[at - back] : 0;
    return at + ahead < size ? (uint8_t)word[at + ahead] : 0;
}

static const uint8_t *find_leaf(const mica_english_dict *d, const char *word, size_t size,
                                size_t at)
{
    uint32_t node = mica_table_u32(d->letters.data + 4 + 4 * (size_t)(word[at] - 'a'));
    for (int depth = 0; depth < MAX_DEPTH && node < d->node_count; depth++) {
        const uint8_t *n = d->nodes + NODE * (size_t)node;
        if (n[0] == LEAF)
            return n;
        node += neighbour(word, size, at, n[0] & 7) == n[1] ? 1 : mica_table_u16(n + 2);
    }
    return NULL;
}

/* One primary stress: the first; the others become secondary. */
static bool settle_stress(uint8_t *phones, size_t count)
{
    size_t first = count;
    bool stressed = false;
    for (size_t i = 0; i < count; i++) {
        if (phones[i] >= MICA_ENGLISH_VOWELS)
            continue;
        first = MICA_MIN(first, i);
        if (phones[i] % 3 == 1) {
            phones[i] = (uint8_t)(phones[i] + stressed);
            stressed = true;
        }
    }
    if (first < count && !stressed)
        phones[first] = (uint8_t)(phones[first] - phones[first] % 3 + 1);
    return first < count;
}

size_t mica_english_dict_guess(const mica_english_dict *d, const char *word, size_t size,
                               uint8_t phones[MICA_ENGLISH_MOST])
{
    size_t count = 0;
    if (size > MICA_ENGLISH_MAX_WORD)
        return 0;
    for (size_t at = 0; at < size; at++) {
        if (word[at] < 'a' || word[at] > 'z')
            return 0;
        const uint8_t *leaf = find_leaf(d, word, size, at);
        for (int i = 1; leaf != NULL && i <= 2; i++)
            if (leaf[i] != NONE && leaf[i] < MICA_ENGLISH_PHONES && count < MICA_ENGLISH_MOST)
                phones[count++] = leaf[i];
    }
    return settle_stress(phones, count) ? count : 0;
}
