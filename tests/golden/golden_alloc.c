/* golden_alloc.c - see golden_alloc.h. */
#include "golden_alloc.h"

#include "base/mem.h"

#include <string.h>

static mica_status open_model(mica_model **m, const mica_engine_options *engine, mica_err *err)
{
    mica_model_parts parts;
    const mica_model_kind *kind;
    mica_status st = mica_model_parts_resolve(&parts, &kind, engine, err);
    if (!st)
        st = kind->open(m, &parts, err);
    mica_model_parts_deinit(&parts);
    return st;
}

mica_status golden_alloc_generate(mica_model_session *s, const mica_model_kind *kind,
                                  const void *options, mica_err *err)
{
    mica_diffusion_result result = {0};
    const mica_status st = kind->generate(s, options, NULL, &result, err);
    assert_true((st == MICA_OK) == (result.rgb != NULL));
    mica_diffusion_result_deinit(&result);
    return st;
}

static mica_status run_model(const mica_model *m, golden_alloc_run *run, const void *options,
                             mica_err *err)
{
    const mica_backend_options be_options = {
        .device = MICA_DEVICE_CPU, .precision = MICA_PRECISION_F32, .threads = 1};
    const mica_diffusion_switches switches = {0};
    mica_backend *be = NULL;
    mica_model_session *s = NULL;
    mica_status st = mica_backend_open(&be, &be_options, err);
    if (!st)
        st = m->kind->session_open(&s, m, be, &switches, err);
    if (!st)
        st = run(s, m->kind, options, err);
    if (s)
        m->kind->session_close(&s);
    mica_backend_close(&be);
    return st;
}

static void check(mica_status st, const mica_err *err, const char *what, uint64_t n)
{
    /* A hint or a smaller buffer may do without; then the result is whole. */
    if (st != MICA_OK && (st != MICA_E_NOMEM || !err->text[0]))
        fail_msg("%s, allocation %d: %s: %s", what, (int)n, mica_status_name(st), err->text);
}

void golden_fail_open(const mica_engine_options *engine)
{
    mica_model *m = NULL;
    mica_err err = {0};
    const uint64_t before = mica_mem_count();
    assert_int_equal(open_model(&m, engine, &err), MICA_OK);
    const uint64_t total = mica_mem_count() - before;
    m->kind->close(&m);
    print_message("%d allocations to open\n", (int)total);
    for (uint64_t n = 1; n <= total; n += 1 + n / 64) {
        err = (mica_err){0};
        mica_mem_fail_at(n);
        const mica_status st = open_model(&m, engine, &err);
        mica_mem_fail_at(0);
        check(st, &err, "open", n);
        if (m)
            m->kind->close(&m);
    }
}

void golden_fail_run(const mica_engine_options *engine, golden_alloc_run *run, const void *options,
                     uint64_t spread)
{
    mica_model *m = NULL;
    mica_err err = {0};
    assert_int_equal(open_model(&m, engine, &err), MICA_OK);
    /* The first run also fills what libraries keep for good. */
    assert_int_equal(run_model(m, run, options, &err), MICA_OK);
    const uint64_t before = mica_mem_count();
    assert_int_equal(run_model(m, run, options, &err), MICA_OK);
    const uint64_t total = mica_mem_count() - before;
    int refused = 0;
    print_message("%d allocations to run\n", (int)total);
    assert_true(total > 20);
    for (uint64_t n = 1; n <= total; n += 1 + n / spread) {
        err = (mica_err){0};
        mica_mem_fail_at(n);
        const mica_status st = run_model(m, run, options, &err);
        mica_mem_fail_at(0);
        check(st, &err, "run", n);
        refused += st == MICA_E_NOMEM;
    }
    assert_true(refused > 20);
    m->kind->close(&m);
}
