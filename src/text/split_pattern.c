/* split_pattern.c - one pass over the pattern, copying what means the same in both engines.
 *
 *     (?i:'s|'t)|[^\r\n\p{L}]+|\s+(?!\S)
 *      copied     class: \p{L} becomes \p{L} and ranges; \s outside: a class of its own
 *
 * Does not check the grammar: parentheses, brackets and quantifiers that do not match are left
 * to pcre2_compile, which says where. */
#include "text/split_pattern.h"

#include "text/vocab.h"

#include <string.h>

/* White_Space of Unicode as the inside of a class. */
#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\p{Z}"

/* General category L and N in Unicode 15.0, 15.1 and 16.0 that was not assigned in 14.0
 * (DerivedGeneralCategory.txt of these versions). */
#define RECENT_LETTERS                                                                             \
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}"               \
    "\\x{10d4a}-\\x{10d65}\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}"         \
    "\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}"           \
    "\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}"          \
    "\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"                    \
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"                     \
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"          \
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define RECENT_NUMBERS                                                                             \
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"         \
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"         \
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}"

typedef struct reader {
    const char *name, *pattern;
    size_t at;
    bool in_class;
    mica_text *out;
    mica_err *err;
} reader;

static mica_status refuse(const reader *r, size_t at, size_t size)
{
    return MICA_FAIL(r->err, MICA_E_UNSUPPORTED,
                     "%s: the pre-tokenizer pattern uses \"%s\" at offset %zu, which is not "
                     "supported",
                     r->name, mica_token_printable(r->pattern + at, size).text, at);
}

/* `inside` as class content when in a class, else as a class of its own. */
static mica_status put_class(reader *r, const char *inside, bool negated)
{
    if (r->in_class && negated)
        return refuse(r, r->at, 2); /* the complement of a union has no spelling inside a class */
    mica_text_add(r->out, r->in_class ? "%s%s" : "[%s%s]", negated ? "^" : "", inside);
    return MICA_OK;
}

/* \p{..} and \P{..} with a general category of one or two letters. */
static mica_status translate_property(reader *r)
{
    const char *s = r->pattern + r->at; /* at the backslash */
    const size_t letters = s[2] == '{' ? strspn(s + 3, "CLMNPSZabcdefgiklmnopqstu") : 0;
    if (letters < 1 || letters > 2 || s[3 + letters] != '}')
        return refuse(r, r->at, strcspn(s, "}") + (strchr(s, '}') != NULL));
    const bool negated = s[1] == 'P';
    mica_status status = MICA_OK;
    if (letters == 1 && s[3] == 'L')
        status = put_class(r, "\\p{L}" RECENT_LETTERS, negated);
    else if (letters == 1 && s[3] == 'N')
        status = put_class(r, "\\p{N}" RECENT_NUMBERS, negated);
    else
        mica_text_add_bytes(r->out, s, letters + 4);
    r->at += letters + 4;
    return status;
}

static mica_status translate_escape(reader *r)
{
    const char c = r->pattern[r->at + 1];
    if (c == 'p' || c == 'P')
        return translate_property(r);
    if (c == 's' || c == 'S')
        MICA_TRY(put_class(r, SPACES, c == 'S'));
    else if (c != '\0' && strchr("rntdfv", c) != NULL) {
        if (c == 'v') /* vertical tab in Oniguruma, a class in PCRE2 */
            mica_text_add(r->out, "\\x{b}");
        else
            mica_text_add_bytes(r->out, r->pattern + r->at, 2);
    } else if (c != '\0' && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", c) != NULL)
        mica_text_add_bytes(r->out, r->pattern + r->at, 2);
    else
        return refuse(r, r->at, c != '\0' ? 2 : 1);
    r->at += 2;
    return MICA_OK;
}

/* "(" and, if a "?" follows, only the group kinds that read the same in both engines. */
static mica_status translate_group(reader *r)
{
    static const char *const kinds[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    const char *s = r->pattern + r->at;
    if (s[1] == '*')
        return refuse(r, r->at, 2);
    size_t size = 1;
    if (s[1] == '?') {
        size = 0;
        for (size_t i = 0; i < MICA_ARRAY_LEN(kinds); i++)
            if (strncmp(s, kinds[i], strlen(kinds[i])) == 0)
                size = strlen(kinds[i]);
        if (size == 0)
            return refuse(r, r->at, MICA_MIN(strlen(s), 4));
    }
    mica_text_add_bytes(r->out, s, size);
    r->at += size;
    return MICA_OK;
}

static mica_status open_class(reader *r)
{
    const char *s = r->pattern + r->at;
    const size_t size = s[1] == '^' ? 2 : 1;
    if (s[size] == ']') /* literal in PCRE2, an empty class in Oniguruma */
        return refuse(r, r->at, size + 1);
    mica_text_add_bytes(r->out, s, size);
    r->at += size;
    r->in_class = true;
    return MICA_OK;
}

static mica_status translate_next(reader *r)
{
    const char *s = r->pattern + r->at;
    if (s[0] == '\\')
        return translate_escape(r);
    if (r->in_class) {
        if (s[0] == '[' || (s[0] == '&' && s[1] == '&'))
            return refuse(r, r->at, 2);
        r->in_class = s[0] != ']';
    } else {
        if (s[0] == '[')
            return open_class(r);
        if (s[0] == '(')
            return translate_group(r);
        if (s[0] == '^' || s[0] == '$')
            return refuse(r, r->at, 1);
        /* "{1,3}+" is possessive in PCRE2 alone, "{,3}" a quantifier in Oniguruma alone. */
        if ((s[0] == '}' && s[1] == '+') || (s[0] == '{' && s[1] == ','))
            return refuse(r, r->at, 2);
    }
    mica_text_add_bytes(r->out, s, 1);
    r->at++;
    return MICA_OK;
}

mica_status mica_split_pattern_translate(mica_text *out, const char *name, const char *pattern,
                                         mica_err *err)
{
    const size_t size = strlen(pattern);
    reader r = {.name = name, .pattern = pattern, .out = out, .err = err};
    if (size == 0 || size > MICA_SPLIT_PATTERN_MAX_SIZE)
        return MICA_FAIL(err, MICA_E_FORMAT,
                         "%s: the pre-tokenizer pattern has %zu bytes, expected 1..%d", name, size,
                         MICA_SPLIT_PATTERN_MAX_SIZE);
    while (r.at < size)
        MICA_TRY(translate_next(&r));
    if (out->failed)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the pre-tokenizer pattern", name);
    return MICA_OK;
}
