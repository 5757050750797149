/* cuda_branch.c - the second stream: small operations beside large ones.
 *
 *     main   ────┬──── branch 0 ────┬────►      each branch has its own scratch and workspace of
 *     side       └──── branch 1 ────┘           cuBLASLt; cuDNN runs in branch 0 alone
 *
 * What it is for: a product with the 64 to 512 rows of a prompt reads its weights and leaves most of the
 * device idle; beside the picture's products it is nearly free.
 *
 * A fork in which something is allocated or a weight uploaded stays in one stream, and so does the one
 * after it: the first pass of a model prepares its weights in order, and nothing has to be guarded. So
 * does a profile, whose moments are those of one stream, and a network whose blocks are streamed: their
 * windows are guarded for one. */
#include "backend/cuda/cuda_backend.h"

static void name(mica_cuda_backend *be, int branch)
{
    const uint64_t ops = be->base.counters.ops;
    be->ops_of[be->named] += ops - be->ops_before;
    be->ops_before = ops;
    be->named = branch;
}

static void choose(mica_cuda_backend *be, int branch)
{
    be->branch = branch;
    be->stream = be->streams[branch];
}

mica_status mica_cuda_branch_open(mica_cuda_backend *be, mica_err *err)
{
    for (int i = 0; i < 2; i++) {
        MICA_TRY(mica_cuda_check(cudaStreamCreateWithFlags(&be->streams[i], cudaStreamNonBlocking),
                                 "creating a stream", err));
        MICA_TRY(mica_cuda_check(cudaEventCreateWithFlags(&be->meet[i], cudaEventDisableTiming),
                                 "creating an event", err));
    }
    choose(be, 0);
    return MICA_OK;
}

void mica_cuda_branch_close(mica_cuda_backend *be)
{
    for (int i = 0; i < 2; i++) {
        if (be->meet[i])
            (void)cudaEventDestroy(be->meet[i]);
        if (be->streams[i])
            (void)cudaStreamDestroy(be->streams[i]);
    }
}

/* The stream `to` goes on only after what `from` has so far. */
static mica_status follow(mica_cuda_backend *be, int to, int from, mica_err *err)
{
    MICA_TRY(mica_cuda_check(cudaEventRecord(be->meet[to], be->streams[from]), "branching", err));
    return mica_cuda_check(cudaStreamWaitEvent(be->streams[to], be->meet[to], 0), "branching", err);
}

static mica_status join(mica_cuda_backend *be, mica_err *err)
{
    const bool forked = be->forked;
    const mica_status st = mica_cuda_residual_settle(be, 1, err);
    name(be, 0);
    be->steady = be->base.counters.allocations == be->allocations_before;
    be->allocations_before = be->base.counters.allocations;
    be->forked = false;
    choose(be, 0);
    if (st)
        return st;
    if (forked)
        return follow(be, 0, 1, err);
    /* The pass to come forks and must not allocate. */
    const bool never = be->streaming || be->base.profile || be->base.options.ablate_branches;
    return never ? MICA_OK : mica_cuda_scratch_reserve(be, 1, be->side_scratch, err);
}

mica_status mica_cuda_op_branch(mica_backend *base, int branch, mica_err *err)
{
    mica_cuda_backend *be = mica_cuda_from(base);
    if (branch < 0)
        return join(be, err);
    name(be, branch);
    if (branch == 1 && !be->forked) {
        if (!be->steady || be->streaming || base->profile || base->options.ablate_branches)
            return MICA_OK;
        MICA_TRY(mica_cuda_residual_settle(be, 0, err));
        MICA_TRY(follow(be, 1, 0, err));
        be->forked = true;
    }
    if (be->forked)
        choose(be, branch);
    return MICA_OK;
}
