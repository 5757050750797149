/* golden_invariants.c - see golden_invariants.h. */
#include "golden_invariants.h"

#include <string.h>

void golden_compare_setups(const golden_subject *s, const golden_setup *plain,
                           const golden_setup *other, double bound)
{
    golden_case c;
    golden_run a, b;
    mica_model *m = golden_model_open_folder(s->model);
    golden_case_open(&c, s->system, s->name);
    golden_generate_ok(&a, m, plain, &c.options);
    golden_generate_ok(&b, m, other, &c.options);
    for (const char *const *name = s->tensors; *name; name++) {
        const mica_tensor *x = mica_trace_find(a.trace, *name);
        const mica_tensor *y = mica_trace_find(b.trace, *name);
        assert_non_null(x);
        if (bound == 0.0)
            golden_assert_equal(*name, y, x);
        else
            golden_assert_near(*name, y, x, bound);
    }
    const size_t n = (size_t)(a.result.width * a.result.height * 3);
    assert_in_range(golden_largest_difference(a.result.rgb, b.result.rgb, n), 0,
                    bound == 0.0 ? 0 : 1);
    golden_run_close(&a);
    golden_run_close(&b);
    golden_case_close(&c);
    golden_model_close(&m);
}

void golden_check_threads(const golden_subject *s)
{
    static const mica_precision PRECISIONS[] = {MICA_PRECISION_F32, MICA_PRECISION_BF16,
                                                MICA_PRECISION_INT8};
    for (size_t p = 0; p < MICA_ARRAY_LEN(PRECISIONS); p++)
        for (int threads = 2; threads <= 3; threads++)
            golden_compare_setups(s, &(golden_setup){.precision = PRECISIONS[p], .threads = 1},
                                  &(golden_setup){.precision = PRECISIONS[p], .threads = threads},
                                  0.0);
}

void golden_check_ablations(const golden_subject *s, const golden_setup *plain)
{
    const struct {
        mica_diffusion_switches switches;
        bool fusion;
        double bound;
    } ablations[] = {
        {.switches = {.ablate_rope_once = true}},
        {.switches = {.ablate_trim = true}},
        {.switches = {.ablate_modulation_once = true}, .bound = 1e-5},
        {.switches = {.ablate_batched_cfg = true}, .bound = 1e-5},
        {.fusion = true, .bound = 1e-5},
    };
    for (size_t i = 0; i < MICA_ARRAY_LEN(ablations); i++) {
        golden_setup other = *plain;
        other.switches = ablations[i].switches;
        other.ablate_fusion = ablations[i].fusion;
        golden_compare_setups(s, plain, &other, ablations[i].bound);
    }
}

void golden_check_int8(const golden_subject *s, const golden_setup *setup, double embeds)
{
    golden_case c;
    golden_run r;
    golden_setup int8 = *setup;
    int8.precision = MICA_PRECISION_INT8;
    mica_model *m = golden_model_open_folder(s->model);
    golden_case_open(&c, s->system, s->name);
    golden_generate_ok(&r, m, &int8, &c.options);
    if (embeds > 0.0)
        golden_assert_near("prompt.embeds", mica_trace_find(r.trace, "prompt.embeds"),
                           mica_weights_find(c.expected, "prompt.embeds"), embeds);
    for (const char *const *name = s->tensors; *name; name++)
        golden_assert_near(*name, mica_trace_find(r.trace, *name),
                           mica_weights_find(c.expected, *name), 3e-2);
    golden_run_close(&r);
    golden_case_close(&c);
    golden_model_close(&m);
}

void golden_check_batch(const mica_model *m, const golden_setup *setup, mica_image_options o)
{
    golden_run both, one;
    const uint64_t seed = o.seed;
    o.batch = 2;
    golden_generate_ok(&both, m, setup, &o);
    assert_int_equal(both.result.count, 2);
    const size_t n = (size_t)both.result.width * (size_t)both.result.height * 3;
    o.batch = 1;
    for (int i = 0; i < 2; i++) {
        o.seed = seed + (uint64_t)i;
        golden_generate_ok(&one, m, setup, &o);
        const mica_tensor *all = mica_trace_find(both.trace, "step1.latents");
        const mica_tensor mine = mica_tensor_rows(all, i, 1);
        golden_assert_near("step1.latents", &mine, mica_trace_find(one.trace, "step1.latents"),
                           1e-5);
        assert_in_range(
            golden_largest_difference(both.result.rgb + (size_t)i * n, one.result.rgb, n), 0, 1);
        golden_run_close(&one);
    }
    /* Two seeds, two pictures. */
    assert_true(golden_largest_difference(both.result.rgb, both.result.rgb + n, n) > 8);
    golden_run_close(&both);
}

void golden_check_block_cache(const mica_model *m, const golden_setup *setup, mica_image_options o)
{
    for (int apart = 0; apart < 2; apart++) {
        golden_run plain, cached;
        golden_setup s = *setup;
        s.switches.ablate_batched_cfg = apart;
        o.steps = 2;
        o.step_caching = MICA_STEP_CACHING_OFF;
        golden_generate_ok(&plain, m, &s, &o);
        o.step_caching = MICA_STEP_CACHING_FAST;
        o.caching_method = MICA_CACHING_FIRST_BLOCK;
        golden_generate_ok(&cached, m, &s, &o);
        golden_assert_equal("step1.latents", mica_trace_find(cached.trace, "step1.latents"),
                            mica_trace_find(plain.trace, "step1.latents"));
        assert_int_equal(cached.result.passes, plain.result.passes);
        assert_int_equal(cached.result.skipped_evaluations, 0);
        golden_run_close(&plain);
        golden_run_close(&cached);
    }
}

void golden_check_counters(const mica_model *m, int threads, mica_image_options plain,
                           mica_image_options guided, int products)
{
    golden_run r;
    plain.steps = guided.steps = 4;
    golden_generate_ok(&r, m, &(golden_setup){.threads = threads, .no_trace = true}, &plain);
    assert_int_equal(r.result.block_allocations, 0);
    assert_int_equal(r.result.block_waits, 0);
    assert_int_equal(r.result.step_waits, 0);
    assert_int_equal(r.result.rope_builds, 1);
    assert_int_equal(r.result.modulation_matmuls, products);
    assert_int_equal(r.result.passes, 4);
    golden_run_close(&r);
    const golden_setup ablated = {.threads = threads,
                                  .no_trace = true,
                                  .switches = {.ablate_rope_once = true,
                                               .ablate_modulation_once = true,
                                               .ablate_batched_cfg = true}};
    golden_generate_ok(&r, m, &ablated, &guided);
    assert_int_equal(r.result.rope_builds, 4);
    assert_int_equal(r.result.modulation_matmuls, 4 * products);
    assert_int_equal(r.result.passes, 8);
    golden_run_close(&r);
}
