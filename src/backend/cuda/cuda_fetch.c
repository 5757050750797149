/* cuda_fetch.c - integers that come to the host behind the work, without a copy or an event.
 *
 *     ticket n ─► words n % MICA_FETCH_TICKETS of the host's memory     word: [ticket, 32 bits][integer]
 *
 *     kernel     writes integers and ticket, each word in one piece (cuda_race.cu)
 *     finish     looks at its words until they carry its ticket; from time to time at the stream, so that a device
 *                that is lost is an error and no waiting without end
 *
 * A word is written again 256 tickets later. The host spins at first, since a token takes a fraction of a
 * millisecond, then lets others run, then naps. */
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_step.h"

#include "base/clock.h"
#include "base/compiler.h"

#include <sched.h>
#include <time.h>

#define LOOKS  64     /* between two looks at the clock */
#define SPIN   0.5e-3 /* seconds */
#define YIELD  20e-3  /* and behind them naps */
#define INSURE 2e-3   /* between two looks at the stream */

static mica_status words_of(mica_cuda_backend *be, uint64_t ticket, uint64_t **out, mica_err *err)
{
    if (!be->told) {
        const size_t size = sizeof(uint64_t) * MICA_FETCH_TICKETS * MICA_FETCH_MOST;
        be->base.counters.allocations++;
        MICA_TRY(mica_cuda_check(cudaHostAlloc((void **)&be->told, size, cudaHostAllocMapped),
                                 "allocating pinned memory", err));
        for (size_t i = 0; i < size / sizeof *be->told; i++)
            be->told[i] = 0; /* of no ticket: the first is 1 */
    }
    *out = be->told + ticket % MICA_FETCH_TICKETS * MICA_FETCH_MOST;
    return MICA_OK;
}

mica_status mica_cuda_told(mica_cuda_backend *be, uint64_t ticket, uint64_t **out, mica_err *err)
{
    uint64_t *words;
    MICA_TRY(words_of(be, ticket, &words, err));
    return mica_cuda_check(cudaHostGetDevicePointer((void **)out, words, 0), "pinned memory", err);
}

void mica_cuda_told_deinit(mica_cuda_backend *be)
{
    if (be->told)
        (void)cudaFreeHost(be->told);
    be->told = NULL;
}

mica_status mica_cuda_op_fetch_start(mica_backend *base, uint64_t ticket, const mica_tensor *ids,
                                     int count, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    uint64_t *told;
    MICA_TRY(mica_cuda_told(be, ticket, &told, err));
    return mica_cuda_check(mica_cuda_fetch(ids->data, count, told, (uint32_t)ticket, be->stream),
                           "fetching tokens", err);
}

static bool has_come(const uint64_t *word, uint64_t ticket, int32_t *out)
{
    const uint64_t w = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    *out = (int32_t)(uint32_t)w;
    return w >> 32 == (uint32_t)ticket;
}

/* The stream still has work; where it has none the word has come or never will. */
static mica_status insure(mica_cuda_backend *be, const uint64_t *word, uint64_t ticket,
                          mica_err *err)
{
    int32_t number;
    const cudaError_t error = cudaStreamQuery(be->stream);
    if (error == cudaErrorNotReady)
        return MICA_OK;
    MICA_TRY(mica_cuda_check(error, "fetching tokens", err));
    return has_come(word, ticket, &number)
               ? MICA_OK
               : MICA_FAIL(err, MICA_E_INTERNAL, "fetch: the device is done without ticket %llu",
                           (unsigned long long)ticket);
}

static mica_status wait_for(mica_cuda_backend *be, const uint64_t *word, uint64_t ticket,
                            int32_t *out, mica_err *err)
{
    double start = 0.0, insured = 0.0;
    for (unsigned looks = 1; !has_come(word, ticket, out); looks++) {
        MICA_RELAX();
        if (looks % LOOKS != 0)
            continue;
        const double now = mica_clock_seconds();
        if (start == 0.0)
            start = insured = now;
        if (now - insured > INSURE) {
            MICA_TRY(insure(be, word, ticket, err));
            insured = now;
        }
        if (now - start > YIELD)
            (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        else if (now - start > SPIN)
            (void)sched_yield();
    }
    return MICA_OK;
}

mica_status mica_cuda_op_fetch_finish(mica_backend *base, uint64_t ticket, int32_t *out, int count,
                                      mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    uint64_t *words;
    MICA_TRY(words_of(be, ticket, &words, err));
    be->base.counters.waits++;
    for (int i = 0; i < count; i++)
        MICA_TRY(wait_for(be, &words[i], ticket, &out[i], err));
    return MICA_OK;
}
