/* checkkern.c - every kernel slot on every level this machine has, against f64 references.
 *
 *     checkkern [--seed N] [--fn SLOT] [--level NAME] [--rounds N]     check
 *     checkkern --bench [--fn SLOT] [--level NAME]                     time
 *     checkkern --list                                                 names of levels
 *
 * Prints the seed, one line per failed case and "N passed, N failed"; exit status 1 when a case
 * failed, 2 for wrong usage, 77 when the level named is not available here (CTest: skipped). */
#include "checkkern.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

typedef struct entry {
    const char *name;
    ck_function *check, *bench;
} entry;
#define CK_ENTRY(slot) {#slot, check_##slot, bench_##slot},
static const entry entries[] = {MICA_KERNEL_LIST(CK_ENTRY) MICA_KERNEL_LIST_BYTES(CK_ENTRY)};
#define ENTRY_COUNT ((int)(sizeof(entries) / sizeof(entries[0])))

typedef struct options {
    uint64_t seed;
    const char *fn, *level;
    int rounds;
    bool bench, list;
} options;

/* For the handler alone: what was running when the program was struck. */
static const char *volatile running_slot = "?", *volatile running_level = "?";

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        _exit(1);
}

static void struck(int signal_number)
{
    say(signal_number == SIGILL ? "checkkern: illegal instruction in "
                                : "checkkern: access outside a buffer in ");
    say(running_slot);
    say(" of ");
    say(running_level);
    say("\n");
    _exit(1);
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--bench"))
            o->bench = true;
        else if (!strcmp(argv[i], "--list"))
            o->list = true;
        else if (!strcmp(argv[i], "--seed") && more)
            o->seed = strtoull(argv[++i], NULL, 0);
        else if (!strcmp(argv[i], "--fn") && more)
            o->fn = argv[++i];
        else if (!strcmp(argv[i], "--level") && more)
            o->level = argv[++i];
        else if (!strcmp(argv[i], "--rounds") && more)
            o->rounds = atoi(argv[++i]);
        else
            return false;
    }
    return o->rounds > 0;
}

static void check_all(const options *o, const mica_kernels *k, ck *c)
{
    for (int i = 0; i < ENTRY_COUNT; i++) {
        if (o->fn && strcmp(o->fn, entries[i].name) != 0)
            continue;
        running_slot = c->slot = entries[i].name;
        running_level = k->name;
        c->k = k;
        /* The same numbers for every level and whichever slots were selected. */
        c->rng = o->seed * 0x9e3779b97f4a7c15ull + (uint64_t)i;
        for (int r = 0; r < o->rounds; r++)
            entries[i].check(c);
    }
}

static void bench_all(const options *o, const mica_kernels *const *tables, int count, ck *c)
{
    printf("%-26s %-13s %12s %9s %9s %7s\n", "slot", "level", "ns", "GB/s", "GFLOP/s", "x base");
    for (int i = 0; i < ENTRY_COUNT; i++) {
        if (o->fn && strcmp(o->fn, entries[i].name) != 0)
            continue;
        c->bench_base_ns = 0.0;
        for (int t = 0; t < count; t++) {
            /* The tables with VNNI and BF16 differ in few slots only. */
            if (t > 3 && strcmp(entries[i].name, "gemm_s8") != 0 &&
                strcmp(entries[i].name, "gemm_bf16") != 0 &&
                strcmp(entries[i].name, "softmax_step_bf16") != 0 &&
                strstr(entries[i].name, "digits") == NULL)
                continue;
            if (o->level && t > 0 && strcmp(o->level, tables[t]->name) != 0)
                continue;
            running_slot = c->slot = entries[i].name;
            running_level = tables[t]->name;
            c->k = tables[t];
            c->rng = o->seed;
            entries[i].bench(c);
            if (t == 0)
                c->bench_base_ns = c->bench_ns;
        }
    }
}

int main(int argc, char **argv)
{
    options o = {.seed = (uint64_t)time(NULL), .rounds = 1};
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: checkkern [--seed N] [--fn SLOT] [--level NAME] [--rounds N] "
                        "[--bench] [--list]\n");
        return 2;
    }
    signal(SIGSEGV, struck);
    signal(SIGBUS, struck);
    signal(SIGILL, struck);
    const mica_kernels *tables[MICA_KERNELS_MAX];
    const int count = mica_kernels_list(tables);
    bool known = false;
    for (int t = 0; t < count; t++) {
        if (o.list)
            printf("%s\n", tables[t]->name);
        known = known || !o.level || !strcmp(o.level, tables[t]->name);
    }
    if (o.list)
        return 0;
    if (!known) {
        printf("level %s is not available on this machine\n", o.level);
        return 77;
    }
    ck c = {0};
    if (o.bench) {
        bench_all(&o, tables, count, &c);
        return 0;
    }
    printf("seed %llu\n", (unsigned long long)o.seed);
    fflush(stdout);
    for (int t = 0; t < count; t++)
        if (!o.level || !strcmp(o.level, tables[t]->name))
            check_all(&o, tables[t], &c);
    printf("%ld passed, %ld failed\n", c.passed, c.failed);
    /* Nothing checked is a mistake of the caller, not a success. */
    return c.passed + c.failed == 0 ? 2 : c.failed ? 1 : 0;
}
