/* chat_terminal.c - `mica chat` and `mica complete` on a pseudo-terminal: what Ctrl-C does there.
 *
 *     chat_terminal MICA MODEL          run in a folder of its own; status 1 and lines where something is wrong
 *
 *     we ── master ◄──► slave ── mica   a session of its own, so that a ^C byte becomes SIGINT as a user's does
 *
 * MODEL never ends an answer by itself (--ignore-eos), so what ends one is the key. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 30.0 /* seconds, for a busy machine */
#define CTRL_C   "\x03"
#define CTRL_D   "\x04"
#define HISTORY  "history.json"

typedef struct terminal {
    int master;
    pid_t child;
    char seen[1 << 20]; /* what came since the last look, NUL-terminated */
    size_t size;
} terminal;

static int failures, checks;

static void check(const char *what, bool fine)
{
    checks++;
    if (fine)
        return;
    failures++;
    printf("FAIL: %s\n", what);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ------------------------------------------------------------------- terminal -- */

static void become(const char *slave, const char *const *words)
{
    setsid();
    const int fd = open(slave, O_RDWR);
    if (fd < 0 || ioctl(fd, TIOCSCTTY, 0) != 0)
        _exit(120);
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    char *copies[16] = {NULL}; /* what execv asks for */
    for (int i = 0; words[i] && i < 15; i++)
        copies[i] = strdup(words[i]);
    execv(copies[0], copies);
    _exit(121);
}

static bool start(terminal *t, const char *const *words)
{
    t->size = 0;
    t->seen[0] = '\0';
    t->master = posix_openpt(O_RDWR | O_NOCTTY);
    if (t->master < 0 || grantpt(t->master) || unlockpt(t->master))
        return false;
    char slave[128];
    if (ptsname_r(t->master, slave, sizeof slave) != 0)
        return false;
    t->child = fork();
    if (t->child == 0) {
        close(t->master);
        become(slave, words);
    }
    return t->child > 0;
}

static void type(const terminal *t, const char *keys)
{
    if (write(t->master, keys, strlen(keys)) != (ssize_t)strlen(keys))
        check("keys reach the terminal", false);
}

/* More of what the program writes, if it comes within `seconds`; false: it will write no more. */
static bool look(terminal *t, double seconds)
{
    struct pollfd p = {.fd = t->master, .events = POLLIN};
    if (poll(&p, 1, (int)(1e3 * seconds)) <= 0)
        return true;
    if (t->size > sizeof t->seen / 2) { /* an endless answer: its end is enough */
        memmove(t->seen, t->seen + t->size / 2, t->size - t->size / 2);
        t->size -= t->size / 2;
    }
    const ssize_t n = read(t->master, t->seen + t->size, sizeof t->seen - t->size - 1);
    if (n <= 0)
        return false;
    for (ssize_t i = 0; i < n; i++) /* a search for text must not end early */
        if (t->seen[t->size + (size_t)i] == '\0')
            t->seen[t->size + (size_t)i] = ' ';
    t->size += (size_t)n;
    t->seen[t->size] = '\0';
    return true;
}

/* What came until `text` is taken; false: it did not come. */
static bool wait_for(terminal *t, const char *text)
{
    const double end = now() + PATIENCE;
    const char *at;
    bool more = true;
    while ((at = strstr(t->seen, text)) == NULL && more && now() < end)
        more = look(t, 0.1);
    if (!at)
        return false;
    const size_t taken = (size_t)(at - t->seen) + strlen(text);
    t->size -= taken;
    memmove(t->seen, t->seen + taken, t->size + 1);
    return true;
}

/* Bytes that came and were not taken reach `count`. */
static bool wait_for_bytes(terminal *t, size_t count)
{
    const double end = now() + PATIENCE;
    bool more = true;
    while (t->size < count && more && now() < end)
        more = look(t, 0.1);
    return t->size >= count;
}

/* As a shell tells it: 128 + the signal of one that died by it; -1: it lives on, and is ended. */
static int end(terminal *t)
{
    const double give_up = now() + PATIENCE;
    int status = 0;
    pid_t done;
    while ((done = waitpid(t->child, &status, WNOHANG)) == 0 && now() < give_up)
        (void)look(t, 0.02);
    if (done == 0) {
        kill(t->child, SIGKILL);
        waitpid(t->child, &status, 0);
    }
    close(t->master);
    if (done <= 0)
        return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* -------------------------------------------------------------------- history -- */

static size_t count_in(const char *text, const char *word)
{
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)) != NULL; at += strlen(word))
        n++;
    return n;
}

static char *read_history(void)
{
    static char text[1 << 20];
    FILE *f = fopen(HISTORY, "rb");
    const size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
    return text;
}

static void check_history(const char *what, size_t questions)
{
    const char *text = read_history();
    const size_t n = strlen(text);
    check(what, count_in(text, "{\"role\":\"user\"") == questions &&
                    count_in(text, "{\"role\":\"assistant\"") == questions &&
                    count_in(text, "\"content\":\"\"") == 0 && n > 2 &&
                    strcmp(text + n - 2, "]\n") == 0);
}

/* ---------------------------------------------------------------------- cases -- */

static const char *chat_words[] = {NULL,       "chat", NULL,        "--ignore-eos", "--temp", "0",
                                   "--device", "cpu",  "--history", HISTORY,        NULL};

/* A question, some of its answer, ^C: the prompt is there again. */
static void ask_and_stop(terminal *t, const char *question)
{
    char line[64], echo[64];
    snprintf(line, sizeof line, "%s\n", question);
    snprintf(echo, sizeof echo, "%s\r\n", question);
    type(t, line);
    check("the terminal shows what is typed", wait_for(t, echo));
    check("an answer begins", wait_for_bytes(t, 100));
    type(t, CTRL_C);
    check("the end of an answer is told", wait_for(t, "the answer was ended"));
    check("the prompt is there again", wait_for(t, "> "));
}

static void test_answers_are_stopped(terminal *t)
{
    check("chat starts", start(t, chat_words) && wait_for(t, "> "));
    ask_and_stop(t, "first question");
    check_history("the history after one answer", 1);
    ask_and_stop(t, "second question");
    check_history("the history after two answers", 2);
    check("the first question is kept", strstr(read_history(), "first question") != NULL);
    type(t, "/undo\n");
    check("commands still work", wait_for(t, "/undo\r\n") && wait_for(t, "> "));
    ask_and_stop(t, "third question");
    check_history("the history after a turn was taken back", 2);
    check("the second question is gone", strstr(read_history(), "second question") == NULL);
    type(t, CTRL_C);
    check("^C at the prompt ends with 130", end(t) == 130);
    check_history("the history in the end", 2);
}

static void test_goes_on_from_history(terminal *t)
{
    check("chat starts again", start(t, chat_words) && wait_for(t, "> "));
    ask_and_stop(t, "fourth question");
    check_history("the history of both sessions", 3);
    type(t, CTRL_D);
    check("^D ends with 0", end(t) == 0);
}

static void test_prompt_without_answers(terminal *t)
{
    check("chat starts", start(t, chat_words) && wait_for(t, "> "));
    type(t, CTRL_C);
    check("^C at the first prompt ends with 130", end(t) == 130);
}

/* One that ended by itself, told by the second prompt: the marks of its signals must not outlive it. */
static void test_prompt_after_an_answer(terminal *t)
{
    const char *words[] = {chat_words[0], "chat",     chat_words[2], "--max-tokens",
                           "3",           "--device", "cpu",         NULL};
    check("chat starts", start(t, words) && wait_for(t, "> "));
    for (int i = 0; i < 2; i++) {
        type(t, "question\n");
        check("an answer is whole", wait_for(t, "question\r\n") && wait_for(t, "\r\n> "));
    }
    type(t, CTRL_C);
    check("^C after an answer ends with 130", end(t) == 130);
}

/* SIGTERM ends the program wherever it is; the answer so far is kept. */
static void test_termination(terminal *t)
{
    check("chat starts", start(t, chat_words) && wait_for(t, "> "));
    ask_and_stop(t, "fifth question");
    kill(t->child, SIGTERM);
    check("SIGTERM at the prompt ends with 143", end(t) == 143);
    check("chat starts", start(t, chat_words) && wait_for(t, "> "));
    type(t, "sixth question\n");
    check("an answer begins", wait_for(t, "sixth question\r\n") && wait_for_bytes(t, 100));
    kill(t->child, SIGTERM);
    check("SIGTERM in an answer ends with 143", end(t) == 143);
    check_history("the history after SIGTERM", 5);
}

static void test_complete(terminal *t, const char *mica, const char *model)
{
    const char *words[] = {mica,     "complete", model,      "-p",  "a", "--ignore-eos",
                           "--temp", "0",        "--device", "cpu", NULL};
    check("complete starts", start(t, words) && wait_for_bytes(t, 100));
    type(t, CTRL_C);
    check("^C ends complete with 130", end(t) == 130);
}

int main(int argc, char **argv)
{
    static terminal t;
    if (argc != 3) {
        fprintf(stderr, "usage: chat_terminal MICA MODEL\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    setenv("TERM", "vt100", 1);
    remove(HISTORY);
    chat_words[0] = argv[1];
    chat_words[2] = argv[2];
    test_answers_are_stopped(&t);
    test_goes_on_from_history(&t);
    test_prompt_without_answers(&t);
    test_prompt_after_an_answer(&t);
    test_termination(&t);
    test_complete(&t, argv[1], argv[2]);
    remove(HISTORY);
    printf("%d checks, %d failed\n", checks, failures);
    return failures > 0;
}
