/* chat_template.c - tags of chat templates; expressions are template_expression.c's.
 *
 *     text {{ expression }} {% if %} {% elif %} {% else %} {% endif %} {% for x in list %} {% endfor %}
 *     {% set x = expression %} {% generation %} {# remark #}
 *
 * transformers renders with trim_blocks and lstrip_blocks: the line break behind a block tag and the blanks
 * before one that begins a line are not text. Tags are run as they are read; a loop's body is read once
 * for each round. */
#include "text/template_value.h"

#include "base/file.h"
#include "base/mem.h"

#include <cjson/cJSON.h>
#include <string.h>

/* tokenizer_config.json of Mixtral-8x7B-Instruct-v0.1 describes this form; the words are ours. */
const char mica_chat_template_mixtral[] =
    "{%- if messages and messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}"
    "{%- for m in turns %}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('after an optional system message, users and assistants take turns') }}"
    "{%- endif %}"
    "{%- if m['role'] == 'user' %}"
    "{%- if loop.first and system is defined %}"
    "{{- ' [INST] ' + system + '\\n\\n' + m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' [INST] ' + m['content'] + ' [/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + m['content'] + eos_token }}{%- endif %}"
    "{%- endfor %}";

typedef enum tag_kind {
    TAG_END_OF_SOURCE = 0,
    TAG_IF,
    TAG_ELIF,
    TAG_ELSE,
    TAG_ENDIF,
    TAG_FOR,
    TAG_ENDFOR,
    TAG_SET,
    TAG_OTHER
} tag_kind;

/* ------------------------------------------------------------ text, tag ends -- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_white(char c)
{
    return is_blank(c) || (c >= '\n' && c <= '\r');
}

/* Behind a tag that ended with `end`; `trims`: a block tag, which takes one line break along. */
static mica_status end_tag(template_run *t, const char *end, bool trims)
{
    template_blank(t);
    const bool dash = *t->at == '-';
    t->at += dash;
    if (strncmp(t->at, end, 2) != 0)
        return template_fail(t, MICA_E_UNSUPPORTED, "expected \"%s\" before \"%.12s\"", end, t->at);
    t->at += 2;
    if (dash)
        while (is_white(*t->at))
            t->at++;
    else if (trims && *t->at == '\r' && t->at[1] == '\n')
        t->at += 2;
    else if (trims && *t->at == '\n')
        t->at++;
    return MICA_OK;
}

/* Text from t->at to the next tag; t->at then stands behind the tag's opening, whose second character is
 * returned, 0 at the end. */
static char literal(template_run *t, bool live)
{
    const char *from = t->at, *tag = from;
    while (*tag && !(*tag == '{' && (tag[1] == '{' || tag[1] == '%' || tag[1] == '#')))
        tag++;
    const char *end = tag;
    if (*tag && tag[2] == '-') {
        while (end > from && is_white(end[-1]))
            end--;
    } else if (*tag && tag[1] != '{') {
        const char *line = end;
        while (line > from && is_blank(line[-1]))
            line--;
        if (line == t->source || line[-1] == '\n')
            end = line;
    }
    if (live)
        mica_text_add_bytes(t->out, from, (size_t)(end - from));
    t->at = *tag ? tag + 2 + (tag[2] == '-') : tag;
    return *tag ? tag[1] : 0;
}

static mica_status skip_remark(template_run *t)
{
    const char *end = strstr(t->at, "#}");
    if (!end)
        return template_fail(t, MICA_E_FORMAT, "a remark does not end");
    t->at = end - (end > t->at && end[-1] == '-');
    return end_tag(t, "#}", true);
}

static mica_status print_tag(template_run *t, bool live)
{
    template_value v;
    t->dead += !live;
    MICA_TRY(template_expression(t, &v));
    t->dead -= !live;
    if (live)
        MICA_TRY(template_print(t, &v));
    return end_tag(t, "}}", false);
}

static tag_kind read_tag(template_run *t)
{
    static const struct {
        const char *name;
        tag_kind kind;
    } tags[] = {{"if", TAG_IF},   {"elif", TAG_ELIF},     {"else", TAG_ELSE}, {"endif", TAG_ENDIF},
                {"for", TAG_FOR}, {"endfor", TAG_ENDFOR}, {"set", TAG_SET}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(tags); i++)
        if (template_take(t, tags[i].name))
            return tags[i].kind;
    return TAG_OTHER;
}

/* --------------------------------------------------------------------- tags -- */

/* Runs up to the first tag that belongs to an outer one; *stop says which, its name has been taken. */
static mica_status run(template_run *t, bool live, tag_kind *stop);

/* {% set x = ... %}, {% set space.x = ... %} */
static mica_status set_tag(template_run *t, bool live)
{
    const char *name, *inner = NULL;
    template_value value;
    const size_t size = template_name(t, &name);
    const size_t inner_size = template_take(t, ".") ? template_name(t, &inner) : 0;
    if (size == 0 || !template_take(t, "="))
        return template_fail(t, MICA_E_UNSUPPORTED, "this form of \"set\" is not known");
    t->dead += !live;
    MICA_TRY(template_expression(t, &value));
    t->dead -= !live;
    if (live && !inner) {
        MICA_TRY(template_set(t, name, size, t->scope, &value));
    } else if (live) {
        const template_value *space = NULL;
        for (int i = 0; i < t->variable_count; i++)
            if (t->variables[i].size == size && memcmp(t->variables[i].name, name, size) == 0 &&
                t->variables[i].value.kind == TEMPLATE_NAMESPACE)
                space = &t->variables[i].value;
        if (!space || inner_size == 0)
            return template_fail(t, MICA_E_UNSUPPORTED, "\"%.*s\" is no namespace", (int)size,
                                 name);
        MICA_TRY(template_set(t, inner, inner_size, (int)-space->number, &value));
    }
    return end_tag(t, "%}", true);
}

static mica_status if_tag(template_run *t, bool live)
{
    bool done = false; /* a branch was taken */
    tag_kind stop = TAG_IF;
    while (stop != TAG_ENDIF) {
        template_value condition = {.kind = TEMPLATE_BOOL, .number = 1};
        const bool open = live && !done;
        if (stop != TAG_ELSE) {
            t->dead += !open;
            MICA_TRY(template_expression(t, &condition));
            t->dead -= !open;
        }
        const bool taken = open && template_truth(&condition);
        MICA_TRY(end_tag(t, "%}", true));
        done |= taken;
        const tag_kind before = stop;
        MICA_TRY(run(t, taken, &stop));
        if (stop != TAG_ENDIF && (before == TAG_ELSE || (stop != TAG_ELIF && stop != TAG_ELSE)))
            return template_fail(t, MICA_E_FORMAT, "an \"if\" has no \"endif\"");
    }
    return end_tag(t, "%}", true);
}

static void close_scope(template_run *t)
{
    int kept = 0;
    for (int i = 0; i < t->variable_count; i++)
        if (t->variables[i].scope < t->scope) /* namespaces stay: theirs is negative */
            t->variables[kept++] = t->variables[i];
    t->variable_count = kept;
    t->scope--;
}

static mica_status run_round(template_run *t, const char *name, size_t size,
                             const template_value *list, int64_t i, tag_kind *stop)
{
    const template_value item = template_item(list, i);
    const template_value loop = {
        .kind = TEMPLATE_LOOP, .number = i, .count = template_length(list)};
    t->scope++;
    MICA_TRY(template_set(t, name, size, t->scope, &item));
    MICA_TRY(template_set(t, "loop", 4, t->scope, &loop));
    MICA_TRY(run(t, true, stop));
    close_scope(t);
    return MICA_OK;
}

static mica_status for_tag(template_run *t, bool live)
{
    const char *name;
    template_value list = {0};
    tag_kind stop = TAG_ENDFOR;
    const size_t size = template_name(t, &name);
    if (size == 0 || !template_take(t, "in"))
        return template_fail(t, MICA_E_UNSUPPORTED, "this form of \"for\" is not known");
    t->dead += !live;
    MICA_TRY(template_expression(t, &list));
    t->dead -= !live;
    MICA_TRY(end_tag(t, "%}", true));
    const char *body = t->at;
    const int64_t rounds = live ? template_length(&list) : 0;
    if (rounds < 0 && list.kind != TEMPLATE_UNDEFINED)
        return template_fail(t, MICA_E_UNSUPPORTED, "\"for\" over something that is no list");
    for (int64_t i = 0; i < rounds && stop == TAG_ENDFOR; i++) {
        t->at = body;
        MICA_TRY(run_round(t, name, size, &list, i, &stop));
    }
    if (rounds <= 0)
        MICA_TRY(run(t, false, &stop));
    if (stop != TAG_ENDFOR)
        return template_fail(t, MICA_E_UNSUPPORTED, "a \"for\" has no \"endfor\"");
    return end_tag(t, "%}", true);
}

static mica_status block_tag(template_run *t, bool live, tag_kind *stop)
{
    *stop = read_tag(t);
    switch (*stop) {
    case TAG_IF:
        MICA_TRY(if_tag(t, live));
        break;
    case TAG_FOR:
        MICA_TRY(for_tag(t, live));
        break;
    case TAG_SET:
        MICA_TRY(set_tag(t, live));
        break;
    case TAG_OTHER:
        /* {% generation %} marks answers for training and prints nothing. */
        if (!template_take(t, "generation") && !template_take(t, "endgeneration"))
            return template_fail(t, MICA_E_UNSUPPORTED, "the tag \"%.16s\" is not known", t->at);
        MICA_TRY(end_tag(t, "%}", true));
        break;
    default:
        return MICA_OK; /* an outer one's */
    }
    *stop = TAG_OTHER;
    return MICA_OK;
}

static mica_status run(template_run *t, bool live, tag_kind *stop)
{
    if (++t->depth > TEMPLATE_DEPTH)
        return template_fail(t, MICA_E_UNSUPPORTED, "tags nested deeper than %d", TEMPLATE_DEPTH);
    for (*stop = TAG_OTHER; *stop == TAG_OTHER;) {
        if (++t->steps > TEMPLATE_STEPS)
            return template_fail(t, MICA_E_UNSUPPORTED, "the template does not end");
        const char tag = literal(t, live);
        if (tag == 0)
            *stop = TAG_END_OF_SOURCE;
        else if (tag == '{')
            MICA_TRY(print_tag(t, live));
        else if (tag == '#')
            MICA_TRY(skip_remark(t));
        else
            MICA_TRY(block_tag(t, live, stop));
    }
    t->depth--;
    return MICA_OK;
}

mica_status mica_chat_template_render(const char *name, const char *source,
                                      const mica_chat_input *input, mica_text *out, mica_err *err)
{
    tag_kind stop;
    if (strlen(source) > MICA_CHAT_TEMPLATE_MAX_SIZE)
        return MICA_FAIL(err, MICA_E_UNSUPPORTED, "%s: a template of more than %d bytes", name,
                         MICA_CHAT_TEMPLATE_MAX_SIZE);
    template_run *t = mica_mem_calloc(1, sizeof *t);
    if (!t)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to render it", name);
    t->name = name;
    t->source = t->at = source;
    t->input = input;
    t->out = out;
    t->err = err;
    mica_arena_init(&t->arena, 1 << 14);
    mica_status st = run(t, true, &stop);
    if (!st && stop != TAG_END_OF_SOURCE)
        st = template_fail(t, MICA_E_FORMAT, "an \"end\" that ends nothing");
    if (!st && out->failed)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory to render it", name);
    mica_arena_deinit(&t->arena);
    mica_mem_free(t);
    return st;
}

/* -------------------------------------------------------------------- files -- */

/* A string, or a list of {"name", "template"} of which "default" is taken. */
static const char *pick(const cJSON *item)
{
    if (cJSON_IsString(item))
        return item->valuestring;
    for (const cJSON *one = cJSON_IsArray(item) ? item->child : NULL; one; one = one->next) {
        const cJSON *name = mica_json_find(one, "name"), *text = mica_json_find(one, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) &&
            strcmp(name->valuestring, "default") == 0)
            return text->valuestring;
    }
    return NULL;
}

static mica_status read_config(const char *path, char **out, mica_err *err)
{
    mica_json j = {0};
    MICA_TRY(mica_json_open(&j, path, err));
    const char *text =
        cJSON_IsObject(j.root) ? pick(mica_json_find(j.root, "chat_template")) : NULL;
    mica_status st = MICA_OK;
    *out = text ? mica_mem_strdup(text) : NULL;
    if (text && !*out)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for the chat template", path);
    mica_json_close(&j);
    return st;
}

static mica_status find_in(const char *dir, char **out, mica_err *err)
{
    size_t size;
    char *jinja = mica_path_join(dir, "chat_template.jinja");
    char *config = mica_path_join(dir, "tokenizer_config.json");
    mica_status st = MICA_OK;
    if (!jinja || !config)
        st = MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for a path", dir);
    else if (mica_path_is_file(jinja))
        st = mica_file_read(jinja, MICA_CHAT_TEMPLATE_MAX_SIZE, out, &size, err);
    else if (mica_path_is_file(config))
        st = read_config(config, out, err);
    mica_mem_free(jinja);
    mica_mem_free(config);
    return st;
}

mica_status mica_chat_template_find(const char *tokenizer, char **out, mica_err *err)
{
    *out = NULL;
    if (mica_path_is_dir(tokenizer))
        return find_in(tokenizer, out, err);
    const char *slash = strrchr(tokenizer, '/');
    char *dir =
        slash ? mica_mem_strndup(tokenizer, slash == tokenizer ? 1 : (size_t)(slash - tokenizer))
              : mica_mem_strdup(".");
    if (!dir)
        return MICA_FAIL(err, MICA_E_NOMEM, "%s: no memory for a path", tokenizer);
    const mica_status st = find_in(dir, out, err);
    mica_mem_free(dir);
    return st;
}
