/* cpu_prefetch.c - telling the page cache what comes next and what is done with.
 *
 *     prefetch ──► queue of byte ranges ──► helper thread: madvise(WILLNEED)
 *
 * madvise(WILLNEED) starts reading ahead but may itself wait for the disk's queue, so a
 * helper thread does it; the queue holds one block's worth of ranges and forgets the
 * oldest when it overflows: these are hints. The thread starts at the first hint for a
 * mapped weight and ends with the backend.
 *
 * Where all pages are there already madvise still looks at each: 4 ms for the 0.5 GB that a token reads of
 * two layers of Mixtral in 4 bits, a tenth of what computing takes. So a range is not told of again until the
 * process had to wait for a page (a major fault): where weights fit in memory, each is told of once. */
#include "backend/cpu/cpu_backend.h"

#include "base/mem.h"

#include <pthread.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#define HAVE_MADVISE 1
#else
#define HAVE_MADVISE 0
#endif

#define QUEUE     256
#define TOLD_BITS 12 /* 4096 ranges: the experts' matrices of 8x22B are 1,344 */

typedef struct range {
    void *start;
    size_t size;
} range;

struct mica_cpu_prefetcher {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    range queue[QUEUE];
    size_t head, count; /* oldest entry, entries waiting */
    bool stop;
    /* The helper's own: ranges that were told of since the process waited for a page last, by a hash of their
     * start; one in the place of another is told of more often than needed. */
    range told[1 << TOLD_BITS];
    long waits;
};

/* Pages that hold the tensor: those it touches (outer) or those it fills alone (inner).
 * False when there are none. */
static bool page_range(const mica_tensor *t, bool inner, range *out)
{
#if HAVE_MADVISE
    const long system_page = sysconf(_SC_PAGESIZE);
    const uintptr_t page = system_page > 0 ? (uintptr_t)system_page : 4096;
    int64_t last = 0; /* index of the last element of a view with any strides */
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape_[i] == 0)
            return false;
        last += (t->shape_[i] - 1) * t->stride_[i];
    }
    const uintptr_t first = (uintptr_t)t->data;
    const uintptr_t end = first + (size_t)mica_tensor_offset(t, last + 1);
    const uintptr_t a = inner ? (first + page - 1) / page * page : first / page * page;
    const uintptr_t b = inner ? end / page * page : (end + page - 1) / page * page;
    if (!t->data || b <= a)
        return false;
    *out = (range){(void *)a, b - a};
    return true;
#else
    (void)t;
    (void)inner;
    (void)out;
    return false;
#endif
}

#if HAVE_MADVISE
static bool was_told(mica_cpu_prefetcher *p, const range *r)
{
    struct rusage usage;
    const uint64_t hash = (uint64_t)(uintptr_t)r->start * 0x9e3779b97f4a7c15u;
    range *told = &p->told[hash >> (64 - TOLD_BITS)];
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return false;
    if (usage.ru_majflt != p->waits) {
        memset(p->told, 0, sizeof p->told);
        p->waits = usage.ru_majflt;
    }
    const bool same = told->start == r->start && told->size == r->size;
    *told = *r;
    return same;
}
#endif

static void *prefetch_main(void *user)
{
    mica_cpu_prefetcher *p = user;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        if (p->count == 0) {
            pthread_cond_wait(&p->wake, &p->lock);
            continue;
        }
        const range r = p->queue[p->head];
        p->head = (p->head + 1) % QUEUE;
        p->count--;
        pthread_mutex_unlock(&p->lock);
#if HAVE_MADVISE
        if (!was_told(p, &r))
            (void)madvise(r.start, r.size, MADV_WILLNEED);
#else
        (void)r;
#endif
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* NULL when it cannot be had: prefetching is a hint and its absence no error. */
static mica_cpu_prefetcher *prefetcher_get(mica_cpu_backend *be)
{
    if (be->prefetcher)
        return be->prefetcher;
    mica_cpu_prefetcher *p = mica_mem_calloc(1, sizeof *p);
    be->base.counters.allocations++;
    if (!p)
        return NULL;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    if (pthread_create(&p->thread, NULL, prefetch_main, p) != 0) {
        pthread_cond_destroy(&p->wake);
        pthread_mutex_destroy(&p->lock);
        mica_mem_free(p);
        return NULL;
    }
    be->prefetcher = p;
    return p;
}

void mica_cpu_prefetch(mica_cpu_backend *be, mica_weight *const *weights, int count)
{
    for (int i = 0; i < count; i++) {
        range r;
        if (!weights[i]->mapped || !page_range(&weights[i]->tensor, false, &r))
            continue;
        mica_cpu_prefetcher *p = prefetcher_get(be);
        if (!p)
            return;
        pthread_mutex_lock(&p->lock);
        if (p->count == QUEUE) {
            p->head = (p->head + 1) % QUEUE;
            p->count--;
        }
        p->queue[(p->head + p->count) % QUEUE] = r;
        p->count++;
        pthread_cond_signal(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void mica_cpu_prefetch_close(mica_cpu_backend *be)
{
    mica_cpu_prefetcher *p = be->prefetcher;
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    mica_mem_free(p);
    be->prefetcher = NULL;
}

void mica_cpu_drop_pages(const mica_weight *weight)
{
    range r;
    /* Inner pages only: a page shared with a neighbour may be in use. Private memory (mapped
     * false) would come back as zeros and is left alone. */
    if (weight->mapped && page_range(&weight->tensor, true, &r)) {
#if HAVE_MADVISE
        (void)madvise(r.start, r.size, MADV_DONTNEED);
#endif
    }
}
