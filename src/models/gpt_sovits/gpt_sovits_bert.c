/* gpt_sovits_bert.c - BERT; see gpt_sovits_bert.h.
 *
 * Reference: transformers models/bert/modeling_bert.py (BertEmbeddings, BertEncoder);
 * TTS_infer_pack/TextPreprocessor.py get_bert_feature: hidden_states[-3], without first and last. */
#include "models/gpt_sovits/gpt_sovits_bert.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#define NORM_EPS 1e-12f

#define AT(field) offsetof(mica_gs_bert, field)
static const mica_weight_row ROWS[] = {
    {"embeddings.word_embeddings.weight", "VD", AT(words), 0},
    {"embeddings.position_embeddings.weight", "LD", AT(positions), 0},
    {"embeddings.token_type_embeddings.weight", "TD", AT(types), 0},
    {"embeddings.LayerNorm.weight", "D", AT(norm.w), 0},
    {"embeddings.LayerNorm.bias", "D", AT(norm.b), 0},
};
#undef AT
#define AT(field) offsetof(mica_gs_block, field)
#define P         "encoder.layer.%d."
static const mica_weight_row BLOCK_ROWS[] = {
    {P "attention.self.query.weight", "DD", AT(q.w), 0},
    {P "attention.self.query.bias", "D", AT(q.b), 0},
    {P "attention.self.key.weight", "DD", AT(k.w), 0},
    {P "attention.self.key.bias", "D", AT(k.b), 0},
    {P "attention.self.value.weight", "DD", AT(v.w), 0},
    {P "attention.self.value.bias", "D", AT(v.b), 0},
    {P "attention.output.dense.weight", "DD", AT(o.w), 0},
    {P "attention.output.dense.bias", "D", AT(o.b), 0},
    {P "attention.output.LayerNorm.weight", "D", AT(norm_1.w), 0},
    {P "attention.output.LayerNorm.bias", "D", AT(norm_1.b), 0},
    {P "intermediate.dense.weight", "FD", AT(up.w), 0},
    {P "intermediate.dense.bias", "F", AT(up.b), 0},
    {P "output.dense.weight", "DF", AT(down.w), 0},
    {P "output.dense.bias", "D", AT(down.b), 0},
    {P "output.LayerNorm.weight", "D", AT(norm_2.w), 0},
    {P "output.LayerNorm.bias", "D", AT(norm_2.b), 0},
};
#undef AT
#undef P

bool mica_gs_bert_probe(const mica_weights *files)
{
    return mica_weights_find(files, "bert.embeddings.token_type_embeddings.weight") ||
           mica_weights_find(files, "embeddings.token_type_embeddings.weight");
}

/* "bert." may stand before all names; old files say gamma and beta. */
static bool rename_tensor(void *user, const char *name, char *out, size_t cap)
{
    const char *rest = strncmp(name, "bert.", 5) == 0 ? name + 5 : name;
    const char *end = strrchr(rest, '.');
    (void)user;
    if (end && strcmp(end, ".gamma") == 0)
        snprintf(out, cap, "%.*s.weight", (int)(end - rest), rest);
    else if (end && strcmp(end, ".beta") == 0)
        snprintf(out, cap, "%.*s.bias", (int)(end - rest), rest);
    else
        snprintf(out, cap, "%s", rest);
    return true;
}

mica_status mica_gs_bert_directory(mica_weights **out, const mica_weights *files, mica_arena *arena,
                                   mica_err *err)
{
    return mica_gs_directory(out, files, rename_tensor, arena, err);
}

static int64_t size_of(const mica_weights *w, const char *name, int dim)
{
    const mica_tensor *t = mica_weights_find(w, name);
    return t && dim < t->ndim ? t->shape_[dim] : 0;
}

mica_status mica_gs_bert_open(mica_gs_bert *bert, const mica_weights *w, int64_t heads, int skipped,
                              mica_arena *arena, mica_err *err)
{
    mica_weight_dims dims = {{0}};
    mica_weight_binder b;
    const int64_t D = dims.of['D'] = size_of(w, ROWS[0].pattern, 1);
    dims.of['V'] = size_of(w, ROWS[0].pattern, 0);
    dims.of['L'] = size_of(w, ROWS[1].pattern, 0);
    dims.of['T'] = size_of(w, ROWS[2].pattern, 0);
    dims.of['F'] = size_of(w, "encoder.layer.0.intermediate.dense.weight", 0);
    *bert = (mica_gs_bert){.stack = {.width = D,
                                     .ffn = dims.of['F'],
                                     .heads = heads > 0 ? heads : mica_gs_likely_heads(D, 64),
                                     .eps = NORM_EPS,
                                     .act = MICA_ACT_GELU_ERF}};
    bert->stack.count = mica_weight_count_blocks(w, "encoder.layer.") - skipped;
    if (bert->stack.count < 1)
        return MICA_FAIL(err, MICA_E_FORMAT, "BERT %s: it has fewer than %d blocks",
                         mica_weights_path(w), skipped + 1);
    bert->stack.blocks =
        mica_arena_calloc(arena, (size_t)bert->stack.count, sizeof *bert->stack.blocks);
    if (!bert->stack.blocks) {
        bert->stack.count = 0;
        return MICA_FAIL(err, MICA_E_NOMEM, "BERT: no memory for its blocks");
    }
    mica_weight_binder_init(&b, w, "BERT", &dims, arena);
    mica_weight_bind(&b, ROWS, MICA_ARRAY_LEN(ROWS), 0, bert);
    for (int n = 0; n < bert->stack.count; n++)
        mica_weight_bind(&b, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, &bert->stack.blocks[n]);
    MICA_TRY(mica_weight_binder_finish(&b, err));
    if (D % bert->stack.heads != 0)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "BERT %s: a width of %lld does not divide into %lld heads",
                         mica_weights_path(w), (long long)D, (long long)bert->stack.heads);
    return MICA_OK;
}

mica_status mica_gs_bert_fill(mica_weights *w, int blocks, mica_arena *arena, mica_err *err)
{
    const mica_weight_dims dims = {
        .of = {['D'] = 1024, ['V'] = 21128, ['L'] = 512, ['T'] = 2, ['F'] = 4096}};
    MICA_TRY(mica_weight_fill(w, &dims, arena, ROWS, MICA_ARRAY_LEN(ROWS), 0, err));
    for (int n = 0; n < blocks; n++)
        MICA_TRY(mica_weight_fill(w, &dims, arena, BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), n, err));
    return MICA_OK;
}

mica_status mica_gs_bert_upload(mica_gs_bert *b, mica_backend *be, mica_err *err)
{
    MICA_TRY(mica_gs_norm_upload(&b->norm, be, err));
    return mica_gs_stack_upload(&b->stack, be, err);
}

int64_t mica_gs_bert_most(const mica_gs_bert *b)
{
    return b->positions.tensor.shape_[0];
}

/* --------------------------------------------------------------------- pass -- */

static mica_status embed(mica_gs_bert *b, mica_backend *be, const int32_t *ids, int64_t count,
                         mica_tensor *x_LD, mica_err *err)
{
    int32_t *other = mica_mem_calloc((size_t)(2 * count), sizeof *other); /* types, positions */
    if (!other)
        return MICA_FAIL(err, MICA_E_NOMEM, "BERT: no memory for positions");
    mica_tensor part = mica_gs_scratch(be, count, b->stack.width);
    for (int64_t i = 0; i < count; i++)
        other[count + i] = (int32_t)i;
    mica_embed_rows(be, &b->words, ids, count, x_LD);
    mica_embed_rows(be, &b->types, other, count, &part);
    mica_add(be, x_LD, &part, x_LD);
    mica_embed_rows(be, &b->positions, other + count, count, &part);
    mica_add(be, x_LD, &part, x_LD);
    mica_mem_free(other);
    mica_gs_norm_run(be, &b->norm, b->stack.eps, x_LD, x_LD);
    return MICA_OK;
}

static mica_status check_ids(const mica_gs_bert *b, const int32_t *ids, int64_t count,
                             mica_err *err)
{
    if (count < 3 || count > mica_gs_bert_most(b))
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a sentence of %lld characters; BERT takes 1 to %lld: cut the text",
                         (long long)count - 2, (long long)mica_gs_bert_most(b) - 2);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= b->words.tensor.shape_[0])
            return MICA_FAIL(
                err, MICA_E_FORMAT,
                "token id %d is outside BERT's vocabulary of %lld; the vocabulary file "
                "belongs to another model",
                (int)ids[i], (long long)b->words.tensor.shape_[0]);
    return MICA_OK;
}

mica_status mica_gs_bert_hidden(mica_gs_bert *b, mica_backend *be, mica_run *run, const char *tap,
                                const int32_t *ids, int64_t count, mica_tensor *x_LD, mica_err *err)
{
    MICA_TRY(check_ids(b, ids, count, err));
    *x_LD = mica_gs_scratch(be, count, b->stack.width);
    MICA_TRY(embed(b, be, ids, count, x_LD, err));
    if (tap)
        mica_gs_tap(run->taps, be, x_LD, false, "%s.hidden_states.0", tap);
    for (int n = 0; n < b->stack.count; n++) {
        mica_gs_block_run(be, &b->stack, n, x_LD);
        if (tap)
            mica_gs_tap(run->taps, be, x_LD, false, "%s.hidden_states.%d", tap, n + 1);
        MICA_TRY(mica_run_block(run, be, n + 1, b->stack.count, err));
    }
    return MICA_OK;
}

static mica_status run_pass(mica_gs_bert *b, mica_backend *be, mica_run *run, const int32_t *ids,
                            int64_t count, float *features_CD, mica_err *err)
{
    mica_tensor x;
    MICA_TRY(mica_gs_bert_hidden(b, be, run, "bert", ids, count, &x, err));
    const mica_tensor inner = mica_tensor_rows(&x, 1, count - 2);
    mica_download_f32(be, features_CD, &inner);
    return mica_backend_check(be, err);
}

mica_status mica_gs_bert_run(mica_gs_bert *b, mica_backend *be, mica_run *run, const int32_t *ids,
                             int64_t count, float *features_CD, mica_err *err)
{
    const mica_pool_mark mark = mica_pool_get_mark(be, MICA_POOL_STEP);
    const mica_status st = run_pass(b, be, run, ids, count, features_CD, err);
    mica_pool_release(be, MICA_POOL_STEP, mark);
    return st;
}

void mica_gs_bert_drop(mica_gs_bert *b, mica_backend *be)
{
    mica_weight *list[MICA_ARRAY_LEN(BLOCK_ROWS)];
    mica_backend_drop_weights(be, list, mica_weight_list(ROWS, MICA_ARRAY_LEN(ROWS), b, list));
    for (int n = 0; n < b->stack.count; n++)
        mica_backend_drop_weights(
            be, list,
            mica_weight_list(BLOCK_ROWS, MICA_ARRAY_LEN(BLOCK_ROWS), &b->stack.blocks[n], list));
}
