/* vocab.c - open addressing over FNV-1a, filled once at load, read-only afterwards.
 *
  * The hash is kept in the slot: it settles almost every miss without touching the spelling,
 * and the table grows without reading one. That matters at load, where each of 150,000
 * merges asks for two tokens. */
#include "text/vocab.h"

#include "base/checked.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <string.h>

#define MIN_SLOTS 1024

void mica_vocab_deinit(mica_vocab *v)
{
    mica_mem_free(v->bytes);
    mica_mem_free(v->entries);
    mica_mem_free(v->slots);
    mica_mem_free(v->by_id);
    memset(v, 0, sizeof *v);
}

bool mica_array_reserve(void **array, size_t *cap, size_t need, size_t item)
{
    if (need <= *cap)
        return true;
    size_t grown = *cap > 0 ? *cap : 64, bytes;
    while (grown < need)
        if (!mica_mul_size(grown, 2, &grown))
            return false;
    if (!mica_mul_size(grown, item, &bytes))
        return false;
    void *p = mica_mem_realloc(*array, bytes);
    if (p == NULL)
        return false;
    *array = p;
    *cap = grown;
    return true;
}

static uint32_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return (uint32_t)(h ^ (h >> 32));
}

const char *mica_vocab_text(const mica_vocab *v, const mica_vocab_entry *e)
{
    return v->bytes + e->offset;
}

/* The slot that holds the spelling, or the free one where it belongs. slot_count > count,
 * so a free slot exists. */
static mica_vocab_slot *find_slot(const mica_vocab *v, const char *token, size_t size,
                                  uint32_t hash)
{
    const size_t mask = v->slot_count - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        mica_vocab_slot *slot = &v->slots[i];
        if (slot->index == 0)
            return slot;
        if (slot->hash != hash)
            continue;
        const mica_vocab_entry *e = &v->entries[slot->index - 1];
        if (e->size == size && memcmp(v->bytes + e->offset, token, size) == 0)
            return slot;
    }
}

static bool grow_slots(mica_vocab *v)
{
    if (v->slot_count >= 2 * (v->count + 1))
        return true;
    mica_vocab_slot *old = v->slots;
    const size_t old_count = v->slot_count, count = old_count > 0 ? old_count * 2 : MIN_SLOTS;
    mica_vocab_slot *slots = mica_mem_calloc(count, sizeof *slots);
    if (slots == NULL)
        return false;
    for (size_t i = 0; i < old_count; i++) { /* all differ: the first free slot is theirs */
        size_t to = old[i].hash & (count - 1);
        while (old[i].index != 0 && slots[to].index != 0)
            to = (to + 1) & (count - 1);
        if (old[i].index != 0)
            slots[to] = old[i];
    }
    mica_mem_free(old);
    v->slots = slots;
    v->slot_count = count;
    return true;
}

static bool grow_ids(mica_vocab *v, size_t id)
{
    if (!mica_array_reserve((void **)&v->by_id, &v->id_cap, id + 1, sizeof *v->by_id))
        return false;
    while (v->id_count <= id)
        v->by_id[v->id_count++] = -1;
    return true;
}

mica_token_name mica_token_printable(const char *token, size_t size)
{
    mica_token_name name;
    size_t n = 0, i = 0;
    while (i < size && n + 4 < sizeof name.text - 3) { /* room for a character and "..." */
        uint32_t cp;
        i += mica_utf8_decode(token + i, size - i, &cp);
        const bool visible = cp >= 0x20 && (cp < 0x7F || cp >= 0xA0);
        n += mica_utf8_encode(visible ? cp : '?', name.text + n);
    }
    memcpy(name.text + n, i < size ? "..." : "", i < size ? 4 : 1);
    return name;
}

static mica_status check_token(const mica_vocab *v, const char *name, const char *token,
                               size_t size, int64_t id, mica_err *err)
{
    if (id < 0 || id > MICA_VOCAB_MAX_ID)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: id %" PRId64 " is outside 0..%d", name, id,
                         MICA_VOCAB_MAX_ID);
    if (size == 0 || size > MICA_TOKEN_MAX_SIZE)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the token of id %" PRId64 " has %zu bytes, expected 1..%d", name, id,
                         size, MICA_TOKEN_MAX_SIZE);
    if (!mica_utf8_is_valid(token, size))
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the token of id %" PRId64 " is not UTF-8", name,
                         id);
    const mica_vocab_entry *e = mica_vocab_get(v, id);
    if (e != NULL)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: id %" PRId64 " belongs to token \"%s\" and to \"%s\"", name, id,
                         mica_token_printable(v->bytes + e->offset, e->size).text,
                         mica_token_printable(token, size).text);
    return MICA_OK;
}

mica_status mica_vocab_add(mica_vocab *v, const char *name, const char *token, size_t size,
                           int64_t id, mica_err *err)
{
    MICA_TRY(check_token(v, name, token, size, id, err));
    if (v->bytes_size + size > UINT32_MAX)
        return MICA_FAIL(err, MICA_E_FORMAT, "%s: the vocabulary exceeds 4 GiB", name);
    if (!grow_slots(v) || !grow_ids(v, (size_t)id) ||
        !mica_array_reserve((void **)&v->entries, &v->cap, v->count + 1, sizeof *v->entries) ||
        !mica_array_reserve((void **)&v->bytes, &v->bytes_cap, v->bytes_size + size, 1))
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for token %zu", name, v->count);
    const uint32_t hash = hash_bytes(token, size);
    mica_vocab_slot *slot = find_slot(v, token, size, hash);
    if (slot->index != 0)
        return MICA_FAIL(
            err, MICA_E_FORMAT, "%s: token \"%s\" appears twice, with ids %" PRId32 " and %" PRId64,
            name, mica_token_printable(token, size).text, v->entries[slot->index - 1].id, id);
    memcpy(v->bytes + v->bytes_size, token, size);
    v->entries[v->count] = (mica_vocab_entry){
        .offset = (uint32_t)v->bytes_size, .size = (uint32_t)size, .id = (int32_t)id};
    v->by_id[id] = (int32_t)v->count;
    v->bytes_size += size;
    v->count++;
    *slot = (mica_vocab_slot){.hash = hash, .index = (uint32_t)v->count};
    return MICA_OK;
}

mica_vocab_entry *mica_vocab_find(const mica_vocab *v, const char *token, size_t size)
{
    if (v->slot_count == 0)
        return NULL;
    const mica_vocab_slot *slot = find_slot(v, token, size, hash_bytes(token, size));
    return slot->index != 0 ? &v->entries[slot->index - 1] : NULL;
}

mica_vocab_entry *mica_vocab_get(const mica_vocab *v, int64_t id)
{
    if (id < 0 || (uint64_t)id >= v->id_count || v->by_id[id] < 0)
        return NULL;
    return &v->entries[v->by_id[id]];
}
