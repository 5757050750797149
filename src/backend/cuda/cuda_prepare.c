/* cuda_prepare.c - weights on the device, uploaded at first use and shared between sessions.
 *
 *     engine's tensor ◄── weight of session A ──► form (device) ◄── weight of session B
 *                                                  refs: one per weight and backend
 *
 * As on the CPU (cpu_prepare.c) a form belongs to the tensor it was made from: all living forms of a
 * GPU stand in one hash table behind the device's lock, and weight->prepared remembers the last one a
 * weight was given. A weight may be wanted in two forms (a bias for cuBLASLt and for own kernels).
 *
 * Forms come on the copy stream, beside the operations (cuda_upload.c); a backend's stream waits for
 * `ready` on the device, not on the host, before it reads a form first. A dropped weight leaves a reference
 * without a weight behind: the form is kept until somebody has no room (cuda_memory.c) or the backend closes,
 * and with it goes the last who could know the tensor. cudaFree waits for the whole device, so nobody can
 * still be reading.
 * Weights that are multiplied together (cuda_joined.c) get their memory as one slab, one behind the other; it
 * goes with the last of them.
 *
 * Forms of streamed blocks lie in windows and belong to one backend (cuda_stream.c). */
#include "backend/cuda/cuda_backend.h"

#include "base/mem.h"

#include <string.h>

struct mica_cuda_ref {
    mica_cuda_prepared *prepared;
    mica_cuda_backend *backend;
    mica_weight *weight; /* NULL: dropped */
    uint64_t dropped;    /* when, by the device's clock */
    mica_cuda_ref *next_of_prepared, *next_of_backend;
    mica_cuda_ref **place; /* the pointer to it in its backend's list */
};

/* Memory of several forms: rows of all, then the scales of all. */
struct mica_cuda_slab {
    uint8_t *data, *scales;
    size_t used, scales_used;
    int users;
};

static const char *name_of(const mica_weight *w)
{
    return w->name ? w->name : "weight";
}

/* ------------------------------------------------------------------ table -- */

static mica_cuda_prepared **bucket_of(mica_cuda_device *d, const mica_tensor *t)
{
    const uint64_t h = (uint64_t)(uintptr_t)t->data * 0x9e3779b97f4a7c15u;
    return &d->buckets[h >> 52]; /* MICA_CUDA_BUCKETS: 12 bits */
}

static bool same_tensor(const mica_tensor *a, const mica_tensor *b)
{
    bool same = a->data == b->data && a->dtype == b->dtype && a->ndim == b->ndim &&
                a->scale.data == b->scale.data;
    if (same && a->scale.data)
        same = a->scale.dtype == b->scale.dtype && a->scale.per_row == b->scale.per_row;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape_[i] == b->shape_[i] && a->stride_[i] == b->stride_[i];
    return same;
}

static bool same_form(const mica_cuda_prepared *a, const mica_cuda_prepared *b)
{
    return a->form == b->form && a->type == b->type && a->owner == b->owner &&
           a->adapters == b->adapters && same_tensor(&a->tensor, &b->tensor);
}

static mica_cuda_prepared *find(mica_cuda_device *d, const mica_cuda_prepared *model)
{
    mica_cuda_prepared *p = *bucket_of(d, &model->tensor);
    while (p && !same_form(p, model))
        p = p->next;
    return p;
}

static void slab_release(mica_cuda_backend *be, mica_cuda_slab *slab)
{
    if (--slab->users > 0)
        return;
    mica_cuda_free(be, slab->data);
    mica_mem_free(slab);
}

static void prepared_free(mica_cuda_backend *be, mica_cuda_prepared *p)
{
    if (p->group)
        mica_cuda_stream_forget(be, p);
    else if (p->slab)
        slab_release(be, p->slab);
    else
        mica_cuda_free(be, p->data);
    be->moves++;
    if (p->ready)
        (void)cudaEventDestroy(p->ready);
    mica_mem_free(p);
}

/* ------------------------------------------------------------- references -- */

/* The reference of `weight` (NULL: of one that was dropped) to p; be NULL: of any backend. */
static mica_cuda_ref *find_ref(const mica_cuda_prepared *p, const mica_weight *weight,
                               const mica_cuda_backend *be)
{
    mica_cuda_ref *r = p->refs;
    while (r && (r->weight != weight || (be && r->backend != be)))
        r = r->next_of_prepared;
    return r;
}

static void unlink_form(mica_cuda_backend *be, mica_cuda_prepared *p)
{
    mica_cuda_prepared **place = bucket_of(be->device, &p->tensor);
    while (*place != p)
        place = &(*place)->next;
    *place = p->next;
    prepared_free(be, p);
}

/* Unlinks it and frees what nobody uses any more. */
static void ref_release(mica_cuda_ref *ref)
{
    mica_cuda_prepared *p = ref->prepared;
    mica_cuda_backend *be = ref->backend;
    mica_cuda_ref **other = &p->refs;
    while (*other != ref)
        other = &(*other)->next_of_prepared;
    *other = ref->next_of_prepared;
    *ref->place = ref->next_of_backend;
    if (ref->next_of_backend)
        ref->next_of_backend->place = ref->place;
    if (ref->weight && ref->weight->prepared == p && !find_ref(p, ref->weight, NULL))
        ref->weight->prepared = NULL;
    mica_mem_free(ref);
    if (!p->refs)
        unlink_form(be, p);
}

/* The weight may go and its reference stays; false: there is one already, or it must not. */
static bool ref_keep(mica_cuda_ref *ref)
{
    mica_weight *w = ref->weight;
    mica_cuda_prepared *p = ref->prepared;
    if (!w->lasting || p->group || find_ref(p, NULL, ref->backend))
        return false;
    ref->weight = NULL;
    ref->dropped = ++ref->backend->device->clock;
    if (w->prepared == p && !find_ref(p, w, NULL))
        w->prepared = NULL;
    return true;
}

/* Forms of one tensor stand in one bucket. */
static void drop_weight(mica_cuda_backend *be, mica_weight *w)
{
    mica_cuda_prepared *next;
    for (mica_cuda_prepared *p = *bucket_of(be->device, &w->tensor); p; p = next) {
        next = p->next;
        mica_cuda_ref *ref = p->tensor.data == w->tensor.data ? find_ref(p, w, be) : NULL;
        if (ref && !ref_keep(ref))
            ref_release(ref);
    }
}

void mica_cuda_weight_drop(mica_cuda_backend *be, mica_weight *w)
{
    be->moves++; /* what was recalled may be somebody else's from now on */
    pthread_mutex_lock(&be->device->lock);
    if (w)
        drop_weight(be, w);
    while (!w && be->prepared)
        ref_release(be->prepared);
    pthread_mutex_unlock(&be->device->lock);
}

void mica_cuda_weight_drop_group(mica_cuda_backend *be, const mica_cuda_group *group)
{
    mica_cuda_ref *next;
    pthread_mutex_lock(&be->device->lock);
    for (mica_cuda_ref *ref = be->prepared; ref; ref = next) {
        next = ref->next_of_backend;
        if (ref->weight && ref->weight->group == group)
            ref_release(ref);
    }
    pthread_mutex_unlock(&be->device->lock);
}

/* -------------------------------------------------------------- giving way -- */

/* When the last of its users dropped it; 0: it is in use, or in a window. */
static uint64_t dropped_at(const mica_cuda_prepared *p)
{
    uint64_t last = 0;
    for (const mica_cuda_ref *r = p->refs; r; r = r->next_of_prepared) {
        if (r->weight)
            return 0;
        last = MICA_MAX(last, r->dropped);
    }
    return p->group ? 0 : last;
}

static mica_cuda_prepared *oldest_dropped(mica_cuda_device *d)
{
    mica_cuda_prepared *oldest = NULL;
    for (int i = 0; i < MICA_CUDA_BUCKETS; i++)
        for (mica_cuda_prepared *p = d->buckets[i]; p; p = p->next)
            if (dropped_at(p) && (!oldest || dropped_at(p) < dropped_at(oldest)))
                oldest = p;
    return oldest;
}

static void release_all_refs(mica_cuda_prepared *p)
{
    for (bool last = false; !last;) {
        last = !p->refs->next_of_prepared;
        ref_release(p->refs); /* the last one frees p */
    }
}

bool mica_cuda_weight_give_way(mica_cuda_backend *be, size_t size)
{
    if (mica_cuda_pool_give_way(be))
        return true;
    pthread_mutex_lock(&be->device->lock);
    const uint64_t used = atomic_load(&be->device->used), goal = used > size ? used - size : 0;
    while (atomic_load(&be->device->used) > goal) { /* a part of a slab frees nothing yet */
        mica_cuda_prepared *p = oldest_dropped(be->device);
        if (!p)
            break;
        release_all_refs(p);
    }
    const bool freed = atomic_load(&be->device->used) < used;
    pthread_mutex_unlock(&be->device->lock);
    return freed || mica_cuda_stream_give_way(be);
}

uint64_t mica_cuda_weight_idle_bytes(mica_cuda_backend *be)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&be->device->lock);
    for (int i = 0; i < MICA_CUDA_BUCKETS; i++)
        for (mica_cuda_prepared *p = be->device->buckets[i]; p; p = p->next)
            bytes += dropped_at(p) ? p->size : 0;
    pthread_mutex_unlock(&be->device->lock);
    return bytes;
}

static mica_status add_ref(mica_cuda_backend *be, mica_weight *w, mica_cuda_prepared *p,
                           mica_err *err)
{
    mica_cuda_ref *ref = mica_mem_calloc(1, sizeof *ref);
    be->base.counters.allocations++;
    if (!ref)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a reference to a weight");
    *ref = (mica_cuda_ref){.prepared = p,
                           .backend = be,
                           .weight = w,
                           .next_of_prepared = p->refs,
                           .next_of_backend = be->prepared,
                           .place = &be->prepared};
    if (be->prepared)
        be->prepared->place = &ref->next_of_backend;
    p->refs = be->prepared = ref;
    return MICA_OK;
}

/* ------------------------------------------------------------------ forms -- */

/* Shape of the form, or a message when the weight cannot have it. */
static mica_status describe_form(mica_cuda_prepared *p, const char *name, mica_err *err)
{
    const mica_tensor *w = &p->tensor;
    const int64_t count = mica_tensor_count(w);
    char text[96];
    if (p->form == MICA_CUDA_FORM_PACKED)
        return mica_cuda_packed_describe(p, name, err);
    bool fits = mica_dtype_get(w->dtype)->is_float;
    if (p->form == MICA_CUDA_FORM_MATRIX || p->form == MICA_CUDA_FORM_FP8 ||
        p->form == MICA_CUDA_FORM_CONV) {
        fits = fits &&
               (p->form == MICA_CUDA_FORM_CONV ? w->ndim == 4 : w->ndim == 2 && w->stride_[1] == 1);
        p->rows = w->shape_[0];
        p->cols = p->rows > 0 ? count / p->rows : 0;
        p->ld = p->form == MICA_CUDA_FORM_FP8 ? p->cols : mica_cuda_round8(p->cols);
    } else { /* a vector; with a scale per row every element is a row */
        fits = fits && mica_tensor_is_contiguous(w);
        p->rows = w->scale.data && w->scale.per_row ? count : 1;
        p->cols = p->ld = count / MICA_MAX(p->rows, (int64_t)1);
    }
    if (!fits)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: %s is no weight the device can take", name,
                         mica_tensor_describe(w, text, sizeof text));
    return MICA_OK;
}

/* Bytes of the rows alone. */
static size_t row_bytes(const mica_cuda_prepared *p)
{
    return (size_t)(p->rows * p->ld) * mica_cuda_type_size(p->type);
}

/* Memory of its own, in the window of its block or in the slab that is being filled. */
static mica_status place(mica_cuda_backend *be, const mica_weight *w, mica_cuda_prepared *p,
                         mica_err *err)
{
    mica_status st = MICA_OK;
    mica_cuda_slab *slab = be->slab;
    if (mica_cuda_is_streamed(w) && (mica_cuda_stream_place(be, w, p, &st, err) || st))
        return st;
    if (slab) {
        p->slab = slab;
        p->data = slab->data + slab->used;
        p->scales = (float *)(void *)(slab->scales + slab->scales_used);
        slab->used += row_bytes(p);
        slab->scales_used += (size_t)p->rows * sizeof(float);
        slab->users++;
        return MICA_OK;
    }
    return mica_cuda_alloc(be, p->size, name_of(w), &p->data, err);
}

static mica_status fill(mica_cuda_backend *be, mica_weight *w, mica_cuda_prepared *p, mica_err *err)
{
    MICA_TRY(describe_form(p, name_of(w), err));
    const size_t row = (size_t)p->ld * mica_cuda_type_size(p->type), used = (size_t)p->rows * row;
    p->size = p->form == MICA_CUDA_FORM_CONV ? (size_t)mica_cuda_round8(p->rows) * row : used;
    if (p->form == MICA_CUDA_FORM_FP8)
        p->size = mica_cuda_scales_at(p) + (size_t)p->rows * sizeof(float);
    MICA_TRY(place(be, w, p, err));
    if (p->form == MICA_CUDA_FORM_CONV && p->size > used)
        MICA_TRY(mica_cuda_check(
            cudaMemsetAsync((uint8_t *)p->data + used, 0, p->size - used, be->copies),
            "padding a weight", err));
    MICA_TRY(mica_cuda_weight_upload(be, p, name_of(w), err));
    MICA_TRY(mica_cuda_adapters_add(be, p, name_of(w), err));
    mica_cuda_release_pages(w);
    MICA_TRY(
        mica_cuda_check(cudaStreamWaitEvent(be->stream, p->ready, 0), "waiting for a weight", err));
    return add_ref(be, w, p, err);
}

static mica_status make(mica_cuda_backend *be, mica_weight *w, const mica_cuda_prepared *model,
                        mica_cuda_prepared **out, mica_err *err)
{
    mica_cuda_prepared *p = mica_mem_calloc(1, sizeof *p);
    if (!p)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a weight's header");
    *p = *model;
    const mica_status st = fill(be, w, p, err);
    if (st) {
        prepared_free(be, p);
        return st;
    }
    p->next = *bucket_of(be->device, &p->tensor);
    *bucket_of(be->device, &p->tensor) = *out = p;
    return MICA_OK;
}

/* One more user of a form that is there. */
static mica_status join(mica_cuda_backend *be, mica_weight *w, mica_cuda_prepared *p, mica_err *err)
{
    mica_cuda_ref *kept = find_ref(p, NULL, be);
    MICA_TRY(
        mica_cuda_check(cudaStreamWaitEvent(be->stream, p->ready, 0), "sharing a weight", err));
    if (!kept)
        return add_ref(be, w, p, err);
    kept->weight = w;
    return MICA_OK;
}

static mica_status get_locked(mica_cuda_backend *be, mica_weight *w,
                              const mica_cuda_prepared *model, mica_cuda_prepared **out,
                              mica_err *err)
{
    mica_cuda_prepared *p = w->prepared;
    if (!p || !same_form(p, model))
        p = find(be->device, model);
    if (!p)
        MICA_TRY(make(be, w, model, &p, err));
    else if (!find_ref(p, w, be))
        MICA_TRY(join(be, w, p, err));
    w->prepared = *out = p;
    return w->group ? mica_cuda_stream_enter(be, w->group, err) : MICA_OK;
}

static mica_cuda_prepared model_of(const mica_cuda_backend *be, const mica_weight *w,
                                   mica_cuda_form form)
{
    const bool is_bytes = form == MICA_CUDA_FORM_FP8 || form == MICA_CUDA_FORM_PACKED;
    const bool has_side = form == MICA_CUDA_FORM_PACKED && w->adapters;
    return (mica_cuda_prepared){.form = form,
                                .type = is_bytes && !has_side         ? MICA_CUDA_F8_E4M3
                                        : form == MICA_CUDA_FORM_F32  ? MICA_CUDA_F32
                                        : form == MICA_CUDA_FORM_BF16 ? MICA_CUDA_BF16
                                        : w->exact                    ? MICA_CUDA_F32
                                                                      : mica_cuda_compute_type(be),
                                .tensor = w->tensor,
                                .adapters =
                                    form == MICA_CUDA_FORM_MATRIX || has_side ? w->adapters : NULL,
                                .owner = mica_cuda_is_streamed(w) ? be : NULL};
}

/* Forms that this backend asked for and has not dropped since (be->moves), by weight: a pass of a language
 * model asks 300 times, and weights that share a tensor have long lists of references. */
#define SEEN 4096

static mica_cuda_seen *seen_of(mica_cuda_backend *be, const mica_weight *w, mica_cuda_form form)
{
    const uint64_t h = ((uint64_t)(uintptr_t)w / 8 + (uint64_t)form) * 0x9e3779b97f4a7c15u;
    return be->seen ? &be->seen[h >> 52] : NULL; /* SEEN: 12 bits */
}

static mica_cuda_prepared *recall(mica_cuda_backend *be, const mica_weight *w, mica_cuda_form form)
{
    const mica_cuda_seen *s = seen_of(be, w, form);
    const bool known = s && s->weight == w && s->prepared && s->form == form &&
                       s->moves == be->moves && !mica_cuda_is_streamed(w) &&
                       s->prepared->tensor.data == w->tensor.data &&
                       ((form != MICA_CUDA_FORM_MATRIX && form != MICA_CUDA_FORM_PACKED) ||
                        s->prepared->adapters == w->adapters);
    if (!known)
        return NULL;
    mica_err never; /* only streamed groups can fail to come in */
    if (w->group)
        (void)mica_cuda_stream_enter(be, w->group, &never);
    return s->prepared;
}

static void remember(mica_cuda_backend *be, const mica_weight *w, mica_cuda_prepared *p)
{
    if (!be->seen)
        be->seen = mica_mem_calloc(SEEN, sizeof *be->seen); /* without it everything is looked up */
    mica_cuda_seen *s = seen_of(be, w, p->form);
    if (s)
        *s = (mica_cuda_seen){w, p, be->moves, p->form};
}

static mica_status get(mica_cuda_backend *be, mica_weight *w, mica_cuda_form form,
                       mica_cuda_prepared **out, mica_err *err)
{
    *out = recall(be, w, form);
    if (*out)
        return MICA_OK;
    const mica_cuda_prepared model = model_of(be, w, form);
    pthread_mutex_lock(&be->device->lock);
    const mica_status st = get_locked(be, w, &model, out, err);
    pthread_mutex_unlock(&be->device->lock);
    if (!st)
        remember(be, w, *out);
    return st;
}

mica_status mica_cuda_weight(mica_cuda_backend *be, mica_weight *w, mica_cuda_form form,
                             const void **out, mica_err *err)
{
    mica_cuda_prepared *p = NULL;
    *out = NULL;
    if (!w)
        return MICA_OK;
    MICA_TRY(get(be, w, form, &p, err));
    *out = p->data;
    return MICA_OK;
}

mica_status mica_cuda_weight_fp8(mica_cuda_backend *be, mica_weight *w, const void **rows,
                                 const float **scales, mica_err *err)
{
    mica_cuda_prepared *p = NULL;
    MICA_TRY(get(be, w, MICA_CUDA_FORM_FP8, &p, err));
    *rows = p->data;
    *scales = mica_cuda_scales_of(p);
    return MICA_OK;
}

/* ---------------------------------------------------------------- joining -- */

/* Memory for forms none of which exists; *out NULL: one does, or they will lie in a window. */
static mica_status slab_make(mica_cuda_backend *be, mica_weight *const *w, int count,
                             mica_cuda_form form, mica_cuda_slab **out, mica_err *err)
{
    size_t size = 0, scales = 0;
    void *memory;
    *out = NULL;
    for (int i = 0; i < count; i++) {
        mica_cuda_prepared p = model_of(be, w[i], form);
        if (mica_cuda_is_streamed(w[i]) || find(be->device, &p))
            return MICA_OK;
        MICA_TRY(describe_form(&p, name_of(w[i]), err));
        if (row_bytes(&p) % 16) /* the next one could not be used alone */
            return MICA_OK;
        size += row_bytes(&p);
        scales += form == MICA_CUDA_FORM_FP8 ? (size_t)p.rows * sizeof(float) : 0;
    }
    mica_cuda_slab *slab = mica_mem_calloc(1, sizeof *slab);
    if (!slab)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a weight's header");
    const mica_status st =
        mica_cuda_alloc(be, mica_cuda_align(size) + scales, name_of(w[0]), &memory, err);
    if (st) {
        mica_mem_free(slab);
        return st;
    }
    slab->data = memory;
    slab->scales = slab->data + mica_cuda_align(size);
    *out = slab;
    return MICA_OK;
}

static mica_status join_locked(mica_cuda_backend *be, mica_weight *const *w, int count,
                               mica_cuda_form form, mica_cuda_prepared **p, mica_err *err)
{
    mica_cuda_slab *slab;
    mica_status st = slab_make(be, w, count, form, &slab, err);
    be->slab = slab;
    if (slab)
        slab->users = 1; /* this function */
    for (int i = 0; i < count && !st; i++) {
        const mica_cuda_prepared model = model_of(be, w[i], form);
        st = get_locked(be, w[i], &model, &p[i], err);
    }
    be->slab = NULL;
    if (slab)
        slab_release(be, slab);
    return st;
}

mica_status mica_cuda_weights_join(mica_cuda_backend *be, mica_weight *const *w, int count,
                                   mica_cuda_form form, const void **first, const float **scales,
                                   mica_err *err)
{
    mica_cuda_prepared *p[MICA_CUDA_JOINED_MOST] = {NULL};
    bool known = true;
    *first = NULL;
    for (int i = 0; i < count && known; i++)
        known = (p[i] = recall(be, w[i], form)) != NULL;
    if (!known) {
        pthread_mutex_lock(&be->device->lock);
        const mica_status st = join_locked(be, w, count, form, p, err);
        pthread_mutex_unlock(&be->device->lock);
        if (st)
            return st;
        for (int i = 0; i < count; i++)
            remember(be, w[i], p[i]);
    }
    for (int i = 1; i < count; i++)
        if ((uint8_t *)p[i]->data != (uint8_t *)p[i - 1]->data + row_bytes(p[i - 1]) ||
            (p[i]->rows > 1 && p[i]->ld != p[0]->ld) ||
            (scales && mica_cuda_scales_of(p[i]) != mica_cuda_scales_of(p[i - 1]) + p[i - 1]->rows))
            return MICA_OK;
    *first = p[0]->data;
    if (scales)
        *scales = mica_cuda_scales_of(p[0]);
    return MICA_OK;
}
