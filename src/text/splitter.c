/* splitter.c - PCRE2 behind mica_splitter.
 *
 * Patterns come from files, so compiling and matching are limited: nesting, size, steps and
 * heap. Just-in-time code is used where PCRE2 has it; a subject that overflows its stack is
 * matched again by the interpreter, which keeps its state on the (limited) heap. */
#include "text/splitter.h"

#include "base/json.h"
#include "base/mem.h"
#include "text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

/* Backtracking steps for one match: the Qwen pattern needs a few for each character of a run of
 * white space, exponential patterns reach the limit within milliseconds. Fits 32 bits: NFC
 * makes at most 3 bytes of one, of at most MICA_TOKENIZER_MAX_TEXT. */
#define MATCH_LIMIT(size) (1000000u + 16u * (uint32_t)(size))
#define HEAP_LIMIT        (1024u * 1024) /* KiB; the interpreter's frames */
#define NEST_LIMIT        32u

static void *allocate(PCRE2_SIZE size, void *user)
{
    (void)user;
    return mica_mem_alloc(size);
}

static void release(void *p, void *user)
{
    (void)user;
    mica_mem_free(p);
}

void mica_splitter_deinit(mica_splitter *s)
{
    for (size_t i = 0; i < s->count; i++)
        pcre2_code_free(s->patterns[i]);
    pcre2_general_context_free(s->memory);
    memset(s, 0, sizeof *s);
}

static mica_status fail_pcre2(mica_err *err, int code, const char *name, const char *what)
{
    char text[128];
    if (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAPLIMIT ||
        code == PCRE2_ERROR_HEAP_FAILED)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to %s", name, what);
    if (pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text) < 0)
        text[0] = '\0';
    return MICA_FAIL(err, MICA_E_FORMAT, "%s: cannot %s: %s (PCRE2 error %d)", name, what, text,
                     code);
}

static mica_status compile(mica_splitter *s, const char *name, const mica_text *pattern,
                           pcre2_code **code, mica_err *err)
{
    int problem = 0;
    PCRE2_SIZE offset = 0;
    pcre2_compile_context *c = pcre2_compile_context_create(s->memory);
    if (c == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the pre-tokenizer pattern", name);
    pcre2_set_newline(c, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(c, NEST_LIMIT);
    *code = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->size,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &problem, &offset, c);
    pcre2_compile_context_free(c);
    if (*code == NULL)
        return fail_pcre2(err, problem, name, "compile the pre-tokenizer pattern");
    pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE); /* unavailable: the interpreter serves */
    return MICA_OK;
}

mica_status mica_splitter_add(mica_splitter *s, const char *name, const char *pattern,
                              mica_err *err)
{
    if (s->count == MICA_SPLITTER_MAX_PATTERNS)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: more than %d pre-tokenizer patterns are not supported", name,
                         MICA_SPLITTER_MAX_PATTERNS);
    if (s->memory == NULL)
        s->memory = pcre2_general_context_create(allocate, release, NULL);
    if (s->memory == NULL)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the pre-tokenizer", name);
    mica_text translated = {0};
    pcre2_code *code = NULL;
    mica_status status = mica_split_pattern_translate(&translated, name, pattern, err);
    if (status == MICA_OK)
        status = compile(s, name, &translated, &code, err);
    mica_text_deinit(&translated);
    if (status == MICA_OK)
        s->patterns[s->count++] = code;
    return status;
}

mica_status mica_splitter_run_init(mica_splitter_run *r, const mica_splitter *s, mica_err *err)
{
    memset(r, 0, sizeof *r);
    r->splitter = s;
    r->limits = pcre2_match_context_create(s->memory);
    bool ok = r->limits != NULL;
    for (size_t i = 0; ok && i < s->count; i++) {
        r->found[i] = pcre2_match_data_create_from_pattern(s->patterns[i], s->memory);
        ok = r->found[i] != NULL;
    }
    if (!ok)
        return MICA_FAIL(err, MICA_E_NOMEM, "no memory to split text");
    pcre2_set_heap_limit(r->limits, HEAP_LIMIT);
    return MICA_OK;
}

void mica_splitter_run_deinit(mica_splitter_run *r)
{
    for (size_t i = 0; i < MICA_SPLITTER_MAX_PATTERNS; i++)
        pcre2_match_data_free(r->found[i]);
    pcre2_match_context_free(r->limits);
    memset(r, 0, sizeof *r);
}

/* The first match at or behind `from`; *start == size + 1: none. */
static mica_status next_match(mica_splitter_run *r, size_t level, const char *text, size_t size,
                              size_t from, size_t *start, size_t *end, mica_err *err)
{
    const pcre2_code *code = r->splitter->patterns[level];
    pcre2_match_data *found = r->found[level];
    /* The text is known to be valid; checking it again in every call would be quadratic. */
    int n = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, found, r->limits);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        found, r->limits);
    *start = *end = size + 1;
    if (n == PCRE2_ERROR_NOMATCH)
        return MICA_OK;
    if (n < 0)
        return fail_pcre2(err, n, "tokenizer", "split the text");
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(found);
    if (at[0] < from || at[1] < at[0] || at[1] > size)
        return MICA_FAIL(err, MICA_E_INTERNAL, "tokenizer: match %zu..%zu of %zu bytes from %zu",
                         (size_t)at[0], (size_t)at[1], size, from);
    *start = at[0];
    *end = at[1];
    return MICA_OK;
}

static size_t next_character(const char *text, size_t size, size_t at)
{
    do
        at++;
    while (at < size && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

/* Depth of recursion: number of patterns. A piece is matched by itself, as in the reference,
 * so that look-around does not see its neighbours. */
static mica_status split(mica_splitter_run *r, size_t level, const char *text, size_t size,
                         mica_err *err)
{
    if (size == 0)
        return MICA_OK;
    if (level == r->splitter->count)
        return r->emit(r->user, text, size, err);
    size_t done = 0, from = 0;
    bool matched = false;
    while (from <= size) {
        size_t start, end;
        MICA_TRY(next_match(r, level, text, size, from, &start, &end, err));
        if (start > size)
            break;
        if (start == end && matched && end == done) { /* empty, right behind the last match */
            from = next_character(text, size, from);
            continue;
        }
        MICA_TRY(split(r, level + 1, text + done, start - done, err));
        MICA_TRY(split(r, level + 1, text + start, end - start, err));
        done = from = end;
        matched = true;
    }
    return split(r, level + 1, text + done, size - done, err);
}

mica_status mica_splitter_run_text(mica_splitter_run *r, const char *text, size_t size,
                                   mica_err *err)
{
    pcre2_set_match_limit(r->limits, MATCH_LIMIT(size));
    return split(r, 0, text, size, err);
}
