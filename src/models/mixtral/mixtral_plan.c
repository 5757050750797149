/* mixtral_plan.c - which layers' experts lie on a device, and which the CPU computes.
 *
 *     available   [ attention, router, norms, head ][ work, keys and values ][ experts ][ experts ]...
 *                   every layer's                     4,096 tokens             of layers 0, 1, ...
 *
 * What does not fit of the last layers stays in the host's memory, where a token reads two of a layer's
 * eight experts: faster than the way of all of them over PCIe for every token. Sizes are those of
 * the forms on the device: packed weights as in the file, others in the type that products take. */
#include "models/mixtral/mixtral.h"

#include "base/mem.h"

#include <stdio.h>

static uint64_t bytes_of(const mica_backend *be, const mica_weight *w)
{
    const mica_tensor *t = &w->tensor;
    if (mica_dtype_is_packed(t->dtype) || (t->dtype == MICA_DTYPE_I8 && t->scale.data))
        return mica_tensor_size(t) + mica_tensor_scale_size(t);
    const bool fp8 = mica_backend_precision(be) == MICA_PRECISION_FP8 && !w->sensitive;
    return (uint64_t)mica_tensor_count(t) * (fp8 ? 1 : (uint64_t)mica_act_size(be));
}

static uint64_t expert_bytes(const mica_backend *be, const mica_mixtral_layer *layer,
                             int64_t experts)
{
    uint64_t sum = 0;
    for (int64_t e = 0; e < experts; e++)
        sum += bytes_of(be, &layer->gate_FD[e]) + bytes_of(be, &layer->up_FD[e]) +
               bytes_of(be, &layer->down_DF[e]);
    return sum;
}

/* Everything but experts and the table of embeddings, which stays in its file unless it is the head. */
static uint64_t other_bytes(const mica_backend *be, mica_mixtral_weights *w)
{
    uint64_t sum = bytes_of(be, w->config.tied ? &w->embed : &w->head);
    for (int64_t n = 0; n < w->config.lm.layers; n++) {
        mica_weight *list[MICA_MIXTRAL_LAYER];
        const int count = mica_mixtral_list_layer(&w->layers[n], list);
        for (int i = 0; i < count; i++)
            sum += bytes_of(be, list[i]);
    }
    return sum;
}

/* Layers whose experts find room behind `used` bytes. */
static int64_t fitting(const mica_mixtral_session *s, uint64_t used, uint64_t available)
{
    const mica_mixtral_config *c = &s->weights.config;
    int64_t n = 0;
    for (; n < c->lm.layers; n++) {
        used += expert_bytes(s->completion.be, &s->weights.layers[n], c->experts);
        if (used > available)
            break;
    }
    return n;
}

static void describe(mica_mixtral_session *s, const mica_backend_memory *m)
{
    const mica_mixtral_config *c = &s->weights.config;
    uint64_t bytes = 0;
    for (int64_t n = c->lm.layers - s->completion.host_layers; n < c->lm.layers; n++)
        bytes += expert_bytes(s->completion.be, &s->weights.layers[n], c->experts);
    snprintf(s->note, sizeof s->note,
             "the experts of %lld of %lld layers (%.1f GB) are computed on the CPU; %.1f GB of GPU "
             "memory may be taken",
             (long long)s->completion.host_layers, (long long)c->lm.layers, (double)bytes * 1e-9,
             (double)m->available * 1e-9);
}

mica_status mica_mixtral_plan(mica_mixtral_session *s, uint64_t scratch, mica_err *err)
{
    mica_backend *be = s->completion.be;
    const int64_t layers = s->weights.config.lm.layers;
    const int wanted = mica_backend_host_experts(be);
    if (!mica_backend_is_queued(be) || wanted < 0)
        return MICA_OK;
    const mica_backend_memory m = mica_backend_get_memory(be, false);
    const uint64_t used = other_bytes(be, &s->weights) + scratch + m.limit / 32;
    s->completion.host_layers =
        wanted > 0 ? MICA_MIN(wanted, layers) : layers - fitting(s, used, m.available);
    if (s->completion.host_layers == 0)
        return MICA_OK;
    describe(s, &m);
    return mica_backend_open_host(&s->host, be, err);
}
