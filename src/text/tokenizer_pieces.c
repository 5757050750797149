/* tokenizer_pieces.c - see tokenizer_pieces.h. */
#include "text/tokenizer_pieces.h"

#include "text/tokenizer_parts.h"

#include <string.h>

const char *mica_tokenizer_get_spelling(const mica_tokenizer *t, int32_t id, size_t *size)
{
    const mica_vocab_entry *e = mica_vocab_get(&t->vocab, id);
    *size = e ? e->size : 0;
    return e ? mica_vocab_text(&t->vocab, e) : NULL;
}

mica_piece_kind mica_tokenizer_get_kind(const mica_tokenizer *t, int32_t id)
{
    const mica_vocab_entry *e = mica_vocab_get(&t->vocab, id);
    if (!e)
        return MICA_PIECE_UNUSED;
    if (id == t->bpe.unknown)
        return MICA_PIECE_UNKNOWN;
    for (int b = 0; b < 256; b++)
        if (t->bpe.byte_id[b] == id)
            return MICA_PIECE_BYTE;
    return e->special ? MICA_PIECE_CONTROL : e->added ? MICA_PIECE_USER : MICA_PIECE_NORMAL;
}

bool mica_tokenizer_puts_space(const mica_tokenizer *t)
{
    return t->sentence.prepend;
}

mica_status mica_tokenizer_get_scores(const mica_tokenizer *t, float *scores, size_t count,
                                      mica_err *err)
{
    const uint32_t last = t->bpe.next_rank;
    if (!t->sentence.on)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "the tokenizer is a byte-level one; pieces with scores are made of "
                         "SentencePiece-style ones");
    /* What no merge makes has the lowest score; specials and bytes have none. */
    for (size_t i = 0; i < count; i++)
        scores[i] =
            mica_tokenizer_get_kind(t, (int32_t)i) == MICA_PIECE_NORMAL ? -(float)last : 0.0f;
    for (size_t i = 0; i < t->bpe.slot_count; i++) {
        const mica_bpe_merge *m = &t->bpe.slots[i];
        if (m->pair == MICA_BPE_FREE_PAIR || m->result < 0 || (size_t)m->result >= count)
            continue;
        if (-(float)m->rank > scores[m->result])
            scores[m->result] = -(float)m->rank;
    }
    return MICA_OK;
}
