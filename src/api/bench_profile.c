/* bench_profile.c - where the time of a run goes, operation by operation; see bench.h.
 *
 *     linear 4096 x 3072 x 12288        60 calls     25.412 ms    423.5 us each    22 %
 *
 * Of a picture: one run of one step, text encoder and VAE included: what belongs to the denoiser tells by its
 * sizes. Of speech: one sentence. */
#include "api/bench.h"

#include "base/mem.h"

#include <inttypes.h>

#define MOST_ROWS 256 /* distinct operations; a model has about 60 */
#define SHOWN     40

static void say_rows(const api_bench *b, const mica_profile_row *rows, int count)
{
    double total = 0.0;
    for (int i = 0; i < count; i++)
        total += rows[i].seconds;
    for (int i = 0; i < count && i < SHOWN; i++)
        api_bench_say(b, "  %-44s %6" PRIu64 " calls %11.3f ms %10.1f us each %4.0f %%",
                      rows[i].what, rows[i].calls, rows[i].seconds * 1e3,
                      rows[i].seconds * 1e6 / (double)rows[i].calls,
                      100.0 * rows[i].seconds / total);
    mica_text_add(&b->report->json, ",\"profile\":[");
    for (int i = 0; i < count; i++)
        mica_text_add(&b->report->json,
                      "%s{\"operation\":\"%s\",\"calls\":%" PRIu64 ",\"seconds\":%.9f}",
                      i ? "," : "", rows[i].what, rows[i].calls, rows[i].seconds);
    mica_text_add(&b->report->json, "]");
}

mica_status api_bench_profile(const api_bench *b, mica_session *s, api_bench_run *run, void *user)
{
    mica_profile_row *rows = mica_mem_calloc(MOST_ROWS, sizeof *rows);
    if (!rows)
        return MICA_FAIL(&b->report->err, MICA_E_NOMEM, "no memory for a profile");
    mica_status st = mica_backend_profile_start(s->be, &b->report->err);
    if (!st)
        st = run(b, s, user);
    const int count = mica_backend_profile_stop(s->be, rows, MOST_ROWS);
    if (!st)
        st = mica_backend_check(s->be, &b->report->err);
    if (!st)
        say_rows(b, rows, count);
    mica_mem_free(rows);
    return st;
}
