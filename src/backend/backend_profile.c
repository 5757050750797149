/* backend_profile.c - how long each operation of a run takes; see backend.h.
 *
 *     start ── 0     op ── 1     op ── 2     ...     stop: moments become durations, summed by name
 *
 * A moment is read from the host's clock, or is an event in a device's queue that is read when all is
 * done. Operations beyond MICA_PROFILE_MARKS go untimed: that is ten passes of Qwen-Image. */
#include "backend/backend_ops.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct moment {
    char what[64];
    double seconds; /* since the start */
} moment;

struct mica_profile {
    double start;
    int count;
    moment moments[MICA_PROFILE_MARKS];
};

static void add(mica_backend *be, const char *what)
{
    mica_profile *p = be->profile;
    if (p->count == MICA_PROFILE_MARKS || mica_backend_failed(be))
        return;
    moment *m = &p->moments[p->count];
    snprintf(m->what, sizeof m->what, "%s", what);
    if (be->ops->profile_mark)
        (void)be->ops->profile_mark(be, p->count, &be->error);
    else
        m->seconds = mica_clock_seconds() - p->start;
    p->count++;
}

void mica_profile_note(mica_backend *be, const char *what)
{
    if (be->profile)
        add(be, what);
}

mica_status mica_backend_profile_start(mica_backend *be, mica_err *err)
{
    mica_mem_free(be->profile);
    be->profile = mica_mem_calloc(1, sizeof *be->profile);
    if (!be->profile)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory for a profile");
    be->profile->start = mica_clock_seconds();
    add(be, "");
    return mica_backend_check(be, err);
}

static void read_device(mica_backend *be, mica_profile *p)
{
    double *seconds = mica_mem_calloc((size_t)p->count, sizeof *seconds);
    if (!seconds)
        mica_backend_fail(be, MICA_E_NOMEM, "no memory for a profile");
    else
        (void)be->ops->profile_read(be, p->count, seconds, &be->error);
    for (int i = 0; seconds && i < p->count; i++)
        p->moments[i].seconds = seconds[i];
    mica_mem_free(seconds);
}

static int longest_first(const void *a, const void *b)
{
    const double x = ((const mica_profile_row *)a)->seconds;
    const double y = ((const mica_profile_row *)b)->seconds;
    return (x < y) - (x > y);
}

static int add_up(const mica_profile *p, mica_profile_row *rows, int most)
{
    int count = 0;
    for (int i = 1; i < p->count; i++) {
        const moment *m = &p->moments[i];
        int r = 0;
        while (r < count && strcmp(rows[r].what, m->what) != 0)
            r++;
        if (r == most)
            continue;
        if (r == count) {
            rows[count++] = (mica_profile_row){.calls = 0};
            memcpy(rows[r].what, m->what, sizeof rows[r].what);
        }
        rows[r].calls++;
        rows[r].seconds += m->seconds - m[-1].seconds;
    }
    qsort(rows, (size_t)count, sizeof *rows, longest_first);
    return count;
}

int mica_backend_profile_stop(mica_backend *be, mica_profile_row *rows, int most)
{
    mica_profile *p = be->profile;
    int count = 0;
    if (!p)
        return 0;
    be->profile = NULL;
    if (be->ops->profile_read && !mica_backend_failed(be))
        read_device(be, p);
    if (!mica_backend_failed(be))
        count = add_up(p, rows, most);
    mica_mem_free(p);
    return count;
}
