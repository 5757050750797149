/* backend_ops.h - what a backend implements; private to src/backend.
 *
 *     backend.c                     cpu/cpu_backend.c, later cuda/
 *     mica_<op>(be, args)  ──►  be->ops-><op>(be, args, &be->error)
 *         |                         |
 *         | once failed: nothing    | returns its status, text at the origin
 *         +──  keeps the first failure, counts operations and seconds
 *
 * Slots have the contracts of backend.h and differ from it in one point: they return a
 * mica_status. They are never called after a failure and never with empty tensors of
 * zero elements (backend.c returns early), so an implementation need not ask. */
#ifndef MICA_BACKEND_BACKEND_OPS_H
#define MICA_BACKEND_BACKEND_OPS_H

#include "backend/backend.h"

typedef struct mica_backend_ops {
    void (*close)(mica_backend *be);
    /* Bytes from a pool, 64-byte aligned, not zeroed. */
    mica_status (*pool_alloc)(mica_backend *be, mica_pool pool, size_t size, void **out,
                              mica_err *err);
    mica_pool_mark (*pool_get_mark)(mica_backend *be, mica_pool pool);
    void (*pool_release)(mica_backend *be, mica_pool pool, mica_pool_mark mark);
    void (*pool_trim)(mica_backend *be);
    uint64_t (*pool_peak)(const mica_backend *be, mica_pool pool);

    mica_status (*buffer_alloc)(mica_backend *be, size_t size, void **out, mica_err *err);
    void (*buffer_free)(mica_backend *be, void *buffer);

    mica_status (*upload_f32)(mica_backend *be, const mica_tensor *dst, const float *src,
                              mica_err *err);
    mica_status (*download_f32)(mica_backend *be, float *dst, const mica_tensor *src,
                                mica_err *err);
    mica_status (*download_pixels)(mica_backend *be, uint8_t *dst, const mica_tensor *src_YXC,
                                   mica_err *err);
    void (*prefetch_weights)(mica_backend *be, mica_weight *const *weights, int count);
    void (*drop_weights)(mica_backend *be, mica_weight *const *weights, int count);
    /* May be NULL: the host's memory. */
    void (*get_memory)(mica_backend *be, bool restart, mica_backend_memory *out);
    /* May be NULL: nothing to release. */
    void (*release_pages)(mica_backend *be, mica_weight *const *weights, int count);

    mica_status (*linear)(mica_backend *be, const mica_linear_args *args, mica_err *err);
    /* NULL: one after the other. Counts the second and further ones as operations where it runs them so. */
    mica_status (*linears)(mica_backend *be, const mica_linear_args *args, int count,
                           mica_err *err);
    /* May be NULL. *taken false: not these sizes or types; then linears and SwiGLU run one by one. */
    mica_status (*linear_swiglu)(mica_backend *be, const mica_linear_args *args, int count,
                                 const mica_tensor *y_MF, bool *taken, mica_err *err);
    mica_status (*layer_norm_modulate)(mica_backend *be, const mica_tensor *x_MD,
                                       const mica_tensor *scale_D, const mica_tensor *shift_D,
                                       float eps, mica_tensor *y_MD, mica_err *err);
    mica_status (*rms_norm_modulate)(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                                     const mica_tensor *scale_D, float eps, mica_tensor *y_MD,
                                     mica_err *err);
    mica_status (*rms_norm_gated)(mica_backend *be, const mica_tensor *x_MD, mica_weight *w_D,
                                  const mica_tensor *gate_D, float eps, mica_tensor *y_MD,
                                  mica_err *err);
    mica_status (*l2_norm_channels)(mica_backend *be, const mica_tensor *x_MC, mica_weight *gamma_C,
                                    mica_act act, mica_tensor *y_MC, mica_err *err);
    mica_status (*group_moments)(mica_backend *be, const mica_tensor *x_YXC,
                                 mica_tensor *moments_YG2, mica_err *err);
    mica_status (*group_norm)(mica_backend *be, const mica_group_norm_args *args, mica_err *err);
    mica_status (*qk_norm_rope)(mica_backend *be, const mica_qk_norm_rope_args *args,
                                mica_err *err);
    mica_status (*attention)(mica_backend *be, const mica_attention_args *args, mica_err *err);
    mica_status (*silu)(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err);
    mica_status (*tanh)(mica_backend *be, const mica_tensor *x, mica_tensor *y, mica_err *err);
    mica_status (*swiglu)(mica_backend *be, const mica_tensor *gate, const mica_tensor *up,
                          mica_tensor *y, mica_err *err);
    mica_status (*add)(mica_backend *be, const mica_tensor *a, const mica_tensor *b, mica_tensor *y,
                       mica_err *err);
    mica_status (*mul)(mica_backend *be, const mica_tensor *a, const mica_tensor *b, mica_tensor *y,
                       mica_err *err);
    mica_status (*embed_rows)(mica_backend *be, mica_weight *w_VD, const int32_t *ids,
                              int64_t count, mica_tensor *y_LD, mica_err *err);
    mica_status (*gather_rows)(mica_backend *be, const mica_tensor *x_MD, const int32_t *rows,
                               int64_t count, mica_tensor *y_ND, mica_err *err);
    mica_status (*add_rows)(mica_backend *be, const mica_tensor *x_ND, const int32_t *rows,
                            const float *share, int64_t count, mica_tensor *y_MD, mica_err *err);
    mica_status (*conv2d)(mica_backend *be, const mica_conv2d_args *args, mica_err *err);
    mica_status (*upsample_nearest2)(mica_backend *be, const mica_tensor *x_YXC, mica_tensor *y_YXC,
                                     mica_err *err);
    mica_status (*conv1d)(mica_backend *be, const mica_conv1d_args *args, mica_err *err);
    mica_status (*apply)(mica_backend *be, mica_function f, float p, const mica_tensor *x_MD,
                         const mica_tensor *shift_D, mica_tensor *y_MD, mica_err *err);
    mica_status (*gate)(mica_backend *be, bool is_tanh, const mica_tensor *x_MN,
                        const mica_tensor *shift_N, mica_tensor *y_MD, mica_err *err);
    mica_status (*relative_attention)(mica_backend *be, const mica_relative_attention_args *args,
                                      mica_err *err);
    mica_status (*copy)(mica_backend *be, const mica_tensor *src, mica_tensor *dst, mica_err *err);
    mica_status (*linear_combination)(mica_backend *be, int n, const float *coef,
                                      const mica_tensor *const *x, mica_tensor *y, mica_err *err);
    mica_status (*cfg_combine)(mica_backend *be, const mica_tensor *cond_PC,
                               const mica_tensor *uncond_PC, float scale, bool renorm,
                               mica_tensor *out_PC, mica_err *err);
    mica_status (*limit_norm)(mica_backend *be, const mica_tensor *reference_PC, float limit,
                              mica_tensor *y_PC, mica_err *err);
    mica_status (*all_finite)(mica_backend *be, const mica_tensor *x, bool *out, mica_err *err);
    /* NULL both: all_finite at once, where operations are done when they return. */
    mica_status (*watch)(mica_backend *be, const mica_tensor *x, int mark, mica_err *err);
    mica_status (*watched)(mica_backend *be, int mark, bool wait, int *first, mica_err *err);
    mica_status (*measure_peak)(mica_backend *be, mica_precision precision, double *flops,
                                mica_err *err);
    mica_status (*measure_bandwidth)(mica_backend *be, double *bytes, mica_err *err);
    /* Where the last operation of a branch may be finished together with the next one: finishes it. Called in
     * front of every operation but norms (which do so themselves) while `unsettled`. NULL: never needed. */
    mica_status (*settle)(mica_backend *be, mica_err *err);
    /* NULL where operations are done when they return; branch -1: join. */
    mica_status (*branch)(mica_backend *be, int branch, mica_err *err);
    /* NULL where operations are done when they return. Decides what mica_replay_more does next, from what
     * it did last; the body succeeded in between. */
    mica_status (*replay)(mica_backend *be, uint64_t key, int *state, mica_err *err);
    /* NULL where operations are done when they return. Notes the moment `index` (0 to
     * MICA_PROFILE_MARKS - 1) in the queue; then the seconds from moment 0 to each of `count`. */
    mica_status (*profile_mark)(mica_backend *be, int index, mica_err *err);
    mica_status (*profile_read)(mica_backend *be, int count, double *seconds, mica_err *err);
    /* NULL where operations are done when they return: then backend_tokens.c computes on the host.
     * y[l] = w[ids[l]] + add[l], an id outside the table takes row 0; add_LD may be NULL. */
    mica_status (*embed_drawn)(mica_backend *be, mica_weight *w_VD, const mica_tensor *ids_L,
                               const mica_tensor *add_LD, mica_tensor *y_LD, mica_err *err);
    /* rows[i].ticket: given; fetch_finish of it has both numbers drawn. */
    mica_status (*race_draw)(mica_backend *be, const mica_race_args *rows, int count,
                             mica_err *err);
    mica_status (*fetch_start)(mica_backend *be, uint64_t ticket, const mica_tensor *ids, int count,
                               mica_err *err);
    mica_status (*fetch_finish)(mica_backend *be, uint64_t ticket, int32_t *out, int count,
                                mica_err *err);
    /* May be NULL. *taken false: not these sizes; then it is asked once more without table and head, if there were
     * any, and if that is not taken either the operations run one by one. */
    mica_status (*post_norm_step)(mica_backend *be, const mica_post_norm_args *args, bool *taken,
                                  mica_err *err);
    /* May be NULL, likewise: then backend_experts.c routes on the host. */
    mica_status (*experts)(mica_backend *be, const mica_experts_args *args, bool *taken,
                           mica_err *err);
    /* NULL where operations are done when they return. x f32, ids int32. */
    mica_status (*largest)(mica_backend *be, const mica_tensor *x_LV, mica_tensor *ids_L,
                           mica_err *err);
    /* May be NULL: never taken. */
    mica_status (*mixture_layer)(mica_backend *be, const mica_mixture_layer_args *args, bool *taken,
                                 mica_err *err);
} mica_backend_ops;

enum {
    MICA_REPLAY_START = 0,
    MICA_REPLAY_RUN,   /* the body runs */
    MICA_REPLAY_FIRST, /* the body runs and may be recorded next */
    MICA_REPLAY_RECORD, /* the body is recorded; what it does happens later, and its status is nobody's */
    MICA_REPLAY_DONE
};

#define MICA_PROFILE_MARKS 16384
#define MICA_FETCH_TICKETS 256 /* two of each of 64 sentences, and more */

/* backend_host.c: mica_experts with args->host. */
void mica_experts_on_host(mica_backend *be, const mica_experts_args *args);

typedef struct mica_profile mica_profile;
/* An operation called `what` (up to 63 characters) was queued. */
void mica_profile_note(mica_backend *be, const char *what);

/* Every implementation's struct begins with this one. */
struct mica_backend {
    const mica_backend_ops *ops;
    mica_backend_options options;     /* threads and precision resolved */
    mica_dtype act_dtype;             /* what mica_act_tensor makes */
    bool is_operand, next_is_operand; /* mica_next_is_operand: of the running operation */
    bool takes_adapters;              /* `linear` knows mica_weight.adapters */
    bool unsettled;                   /* see ops->settle */
    int nonfinite;                    /* without ops->watch: the first mark that was not, or -1 */
    mica_backend_counters counters;
    void *route; /* host memory of mica_experts, route_size bytes; grows */
    size_t route_size;
    mica_err error;       /* error.status != MICA_OK: failed, operations do nothing */
    uint64_t last_key;    /* of mica_replay_new_key */
    uint64_t last_ticket; /* of mica_fetch_start */
    int32_t fetched[MICA_FETCH_TICKETS][MICA_FETCH_MOST]; /* where there is no slot for it */
    mica_profile *profile;                                /* NULL: not running */
    char name[96];
};

/* In front of an operation that backend.c does not begin itself; see ops->settle. */
static inline void mica_backend_settle(mica_backend *be)
{
    if (be->unsettled && be->error.status == MICA_OK)
        (void)be->ops->settle(be, &be->error); /* a failure leaves its text in be->error */
}

#endif
