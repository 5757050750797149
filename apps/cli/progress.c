/* progress.c - the progress bar, notices and Ctrl-C of a run.
 *
 *     denoise [=============>            ] 12/50   24 %  1.23 s/step  ETA 0:47
 *
 * The bar is drawn on stderr, on a terminal only, at most ten times a second, and wiped at the
 * end. The time left is that of the running phase: its own pace so far, extrapolated. The
 * fraction never goes back, also when a solver runs the network twice a step.
 *
 * Signals only set a flag; the run reads it once per block through its progress callback, so
 * that it ends in order: no temporary file stays. The handler is one-shot, hence a second
 * Ctrl-C ends the process at once even if the run is stuck. A terminal that closes asks likewise,
 * unless the program was started to outlive it (nohup). */
#include "cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_CELLS     26
#define DRAW_INTERVAL 0.1 /* seconds */

static volatile sig_atomic_t caught_signal;

static void on_signal(int number)
{
    caught_signal = number;
}

static bool hangup_is_ignored(void)
{
    struct sigaction now;
    return sigaction(SIGHUP, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

void cli_signals_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART | (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (!hangup_is_ignored())
        sigaction(SIGHUP, &action, NULL);
}

int cli_signals_caught(void)
{
    return caught_signal;
}

void cli_signals_clear(void)
{
    caught_signal = 0;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (!hangup_is_ignored())
        signal(SIGHUP, SIG_DFL);
}

int cli_signals_exit(void)
{
    if (caught_signal == SIGHUP)
        return CLI_HUNG_UP;
    return caught_signal == SIGTERM ? CLI_TERMINATED : CLI_INTERRUPTED;
}

void cli_progress_init(cli_progress *p, bool quiet)
{
    const char *terminal = getenv("TERM");
    const bool is_dumb = !terminal || strcmp(terminal, "dumb") == 0;
    *p = (cli_progress){.quiet = quiet, .phase = MICA_PHASE_COUNT, .last_draw = -1.0};
    p->draws = !quiet && !is_dumb && isatty(STDERR_FILENO);
}

void cli_progress_end(cli_progress *p)
{
    if (p->line_open)
        fputs("\r\033[K", stderr);
    p->line_open = false;
}

/* Share of the phase that is done: whole steps plus blocks of the running one. */
static double phase_fraction(const mica_progress *now)
{
    const double within = now->block_count > 0 ? (double)now->block / now->block_count : 0.0;
    double fraction = within;
    if (now->step_count > 0)
        fraction = (now->step + (now->step < now->step_count ? within : 0.0)) / now->step_count;
    return fmin(fmax(fraction, 0.0), 1.0);
}

static void add_time_left(mica_text *line, double fraction, double elapsed)
{
    if (fraction < 0.01 || elapsed < 0.5)
        return;
    const long left = lround(elapsed * (1.0 - fraction) / fraction);
    if (left >= 3600)
        mica_text_add(line, "  ETA %ld:%02ld:%02ld", left / 3600, left / 60 % 60, left % 60);
    else
        mica_text_add(line, "  ETA %ld:%02ld", left / 60, left % 60);
}

static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return 80;
}

static void draw(cli_progress *p, const mica_progress *now)
{
    static const char *const names[] = {"text", "prepare", "denoise", "decode", "convert"};
    const double elapsed = now->seconds - p->phase_start;
    const int filled = (int)(p->fraction * BAR_CELLS);
    mica_text line = {0};
    mica_text_add(&line, "%-7s [", now->phase < MICA_PHASE_COUNT ? names[now->phase] : "");
    for (int i = 0; i < BAR_CELLS; i++)
        mica_text_add(&line, "%s", i < filled ? "=" : i == filled ? ">" : " ");
    mica_text_add(&line, "]");
    if (now->step_count > 0)
        mica_text_add(&line, " %d/%d", now->step, now->step_count);
    mica_text_add(&line, "  %3.0f %%", p->fraction * 100.0);
    if (now->step_count > 0 && now->step > 0)
        mica_text_add(&line, "  %.2f s/step", elapsed / (p->fraction * now->step_count));
    add_time_left(&line, p->fraction, elapsed);
    /* One column stays free: some terminals wrap when the last one is filled. */
    if (line.data)
        fprintf(stderr, "\r%.*s\033[K", MICA_MAX(terminal_columns() - 1, 0), line.data);
    fflush(stderr);
    mica_text_deinit(&line);
    p->line_open = true;
    p->last_draw = now->seconds;
}

bool cli_progress_update(void *progress, const mica_progress *now)
{
    cli_progress *p = progress;
    if (now->phase != p->phase) {
        p->phase = now->phase;
        p->phase_start = now->seconds;
        p->fraction = 0.0;
        p->last_draw = -1.0;
    }
    p->fraction = fmax(p->fraction, phase_fraction(now));
    if (now->notice && !p->quiet) {
        cli_progress_end(p);
        cli_note(now->notice);
    }
    if (p->draws && (p->last_draw < 0.0 || now->seconds - p->last_draw >= DRAW_INTERVAL))
        draw(p, now);
    return caught_signal == 0;
}
