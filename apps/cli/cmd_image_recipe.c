/* cmd_image_recipe.c - `mica image --recipe PICTURE`: the options that a picture was made with.
 *
 *     picture ─► recipe (JSON) ─► --steps 20 --seed 7 ...  ─► the parser ─► args
 *                                  command line            ─► the parser ─┘  goes over it
 *
 * The recipe becomes a command line, so that the tables check it as they check a user's: it comes from a
 * file. Prompts are taken as they are, never as @FILE or standard input. Files that the recipe
 * names (pictures, masks, LoRAs, noise) it names without their folders: they are asked for. */
#include "cmd_image.h"

#include "base/mem.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

/* Members of the recipe (src/api/recipe.c) and the options of their values. */
static const struct {
    const char *member, *option;
} FIELDS[] = {
    {"width", "--width"},
    {"height", "--height"},
    {"steps", "--steps"},
    {"guidance", "--guidance"},
    {"solver", "--solver"},
    {"schedule", "--schedule"},
    {"sigmas", "--sigmas"},
    {"noise_rng", "--noise-rng"},
    {"timestep_rounding", "--timestep-rounding"},
    {"max_text_tokens", "--max-text-tokens"},
    {"distilled", "--distilled"},
    {"cfg_normalization", "--cfg-normalization"},
    {"cfg_truncation", "--cfg-truncation"},
    {"cache", "--cache"},
    {"cache_method", "--cache-method"},
    {"strength", "--strength"},
    {"expand", "--expand"},
    {"ref_pixels", "--ref-pixels"},
    {"vision_pixels", "--vision-pixels"},
    {"layers", "--layers"},
    {"edit", "--edit"},
    {"picture_positions", "--picture-positions"},
    {"precision", "--precision"},
};

/* A command line under construction: options and their values in turns. */
typedef struct line {
    char *words[2 * (MICA_ARRAY_LEN(FIELDS) + 2)];
    int count;
    bool failed;
} line;

static void add_word(line *l, const char *word)
{
    l->words[l->count] = mica_mem_strdup(word);
    l->failed |= !l->words[l->count++];
}

static void line_deinit(line *l)
{
    for (int i = 0; i < l->count; i++)
        mica_mem_free(l->words[i]);
}

static void add_value(line *l, const char *option, const cJSON *value)
{
    mica_text text = {0};
    if (cJSON_IsNumber(value))
        mica_text_add(&text, "%.17g", value->valuedouble);
    else if (cJSON_IsString(value))
        mica_text_add(&text, "%s", value->valuestring);
    else if (cJSON_IsArray(value))
        for (const cJSON *v = value->child; v; v = v->next)
            mica_text_add(&text, "%s%.17g", v == value->child ? "" : ",",
                          cJSON_IsNumber(v) ? v->valuedouble : (double)NAN);
    add_word(l, option);
    add_word(l, text.data ? text.data : "");
    mica_text_deinit(&text);
}

/* The text of an object's own member, behind its colon, or NULL. The object is JSON that has been parsed; what stands
 * before its brace is passed over. */
static const char *member_text(const char *object, const char *name)
{
    static const char blank[] = " \t\r\n";
    const char *p = object + strcspn(object, "{");
    int depth = 0;
    for (; *p; p++) {
        depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
        if (depth == 0)
            return NULL;
        if (*p != '"')
            continue;
        const char *word = ++p;
        for (; *p && *p != '"'; p++)
            p += *p == '\\' && p[1];
        if (!*p)
            return NULL;
        const char *colon = p + 1 + strspn(p + 1, blank);
        if (depth == 1 && *colon == ':' && (size_t)(p - word) == strlen(name) &&
            memcmp(word, name, strlen(name)) == 0)
            return colon + 1 + strspn(colon + 1, blank);
    }
    return NULL;
}

/* As it is written, because doubles do not hold it: numbers of a seed have up to 64 bits. */
static void add_seed(line *l, const char *json)
{
    char digits[24] = "";
    const char *recipe = member_text(json, "recipe");
    const char *at = recipe ? member_text(recipe, "seed") : NULL;
    if (!at)
        return;
    const size_t n = MICA_MIN(strcspn(at, ",} \t\r\n"), sizeof digits - 1);
    memcpy(digits, at, n);
    add_word(l, "--seed");
    add_word(l, digits);
}

/* What the user's own options replace is left out where both together would be refused. */
static bool is_replaced(const char *member, const cJSON *recipe, const image_args *own)
{
    if (strcmp(member, "sigmas") == 0)
        return own->steps != 0;
    if (strcmp(member, "steps") == 0)
        return own->sigmas.count != 0;
    if (strcmp(member, "width") == 0 || strcmp(member, "height") == 0)
        return mica_json_find(recipe, "expand") || own->expand.count;
    return false;
}

static mica_status parse_recipe(const cJSON *recipe, const char *json, const image_args *own,
                                image_args *out, mica_err *err)
{
    line l = {.count = 0};
    bool help;
    const char *none;
    mica_err why = {0};
    for (size_t i = 0; i < MICA_ARRAY_LEN(FIELDS); i++) {
        const cJSON *value = mica_json_find(recipe, FIELDS[i].member);
        if (value && !is_replaced(FIELDS[i].member, recipe, own))
            add_value(&l, FIELDS[i].option, value);
    }
    add_seed(&l, json);
    mica_status st = l.failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory") : MICA_OK;
    if (!st && cli_parse(&cmd_image_spec, l.count, l.words, out, &none, &help, &why))
        st = MICA_FAIL(err, MICA_E_FORMAT, "%s: its recipe cannot be followed: %s", own->recipe,
                       why.text);
    line_deinit(&l);
    const cJSON *guided = mica_json_find(recipe, "guided");
    if (cJSON_IsFalse(guided))
        out->guidance = 0.0; /* its scale was not used */
    return st;
}

/* Files that the user has to give, since the recipe knows their names alone. */
static mica_status check_files(const cJSON *recipe, const image_args *own, mica_err *err)
{
    const struct {
        const char *member, *option;
        int given;
    } files[] = {{"inputs", "-i FILE", own->inputs.count},
                 {"mask", "--mask FILE", own->mask != NULL},
                 {"loras", "--lora FILE:SCALE", own->engine.loras.count},
                 {"noise", "--noise FILE", own->noise != NULL}};
    for (size_t i = 0; i < MICA_ARRAY_LEN(files); i++) {
        const cJSON *value = mica_json_find(recipe, files[i].member);
        const int needed = !value ? 0 : cJSON_IsArray(value) ? cJSON_GetArraySize(value) : 1;
        if (files[i].given >= needed)
            continue;
        char *names = cJSON_PrintUnformatted(value);
        MICA_FAIL(err, MICA_E_USAGE, "%s was made with %s %.300s, which it does not hold: %s",
                  own->recipe, files[i].member, names ? names : "of its own", files[i].option);
        cJSON_free(names);
        return MICA_E_USAGE;
    }
    return MICA_OK;
}

static mica_status find_recipe(image_recipe *r, const char *path, const char *json, mica_err *err)
{
    MICA_TRY(mica_json_parse(&r->json, path, json, strlen(json), err));
    r->recipe = mica_json_find(r->json.root, "recipe");
    if (!cJSON_IsObject(r->recipe))
        return MICA_FAIL(err, MICA_E_MISSING,
                         "%s: there is no recipe of mica inside; a PNG that mica wrote has one",
                         path);
    if (mica_json_find(r->recipe, "pictures"))
        return MICA_FAIL(err, MICA_E_UNSUPPORTED,
                         "%s: a contact sheet holds the recipes of several pictures; mica inspect "
                         "--json tells them",
                         path);
    return mica_json_get_string(&r->json, r->recipe, "prompt", &r->prompt, err);
}

mica_status image_recipe_follow(image_recipe *r, const char *json, image_args *args, mica_err *err)
{
    const image_args own = *args;
    MICA_TRY(find_recipe(r, own.recipe, json, err));
    MICA_TRY(check_files(r->recipe, &own, err));
    image_args_init(args);
    MICA_TRY(parse_recipe(r->recipe, json, &own, args, err));
    const cJSON *negative = mica_json_find(r->recipe, "negative_prompt");
    r->negative = cJSON_IsString(negative) ? negative->valuestring : NULL;
    return MICA_OK;
}

mica_status image_recipe_read(image_recipe *r, image_args *args, int argc, char **argv,
                              mica_err *err)
{
    mica_report *report = NULL;
    bool help;
    const char *model;
    mica_status st = mica_inspect(args->recipe, &report);
    if (st)
        MICA_FAIL(err, st, "--recipe takes a picture: %s",
                  report ? mica_report_errmsg(report) : mica_status_name(st));
    else
        st = image_recipe_follow(r, mica_report_json(report), args, err);
    mica_report_close(&report);
    MICA_TRY(st);
    MICA_TRY(cli_parse(&cmd_image_spec, argc, argv, args, &model, &help, err));
    if (!args->prompts.count)
        args->prompts = (cli_texts){{r->prompt}, 1};
    if (!args->negative)
        args->negative = r->negative;
    args->literal_prompt = r->prompt;
    args->literal_negative = r->negative;
    return MICA_OK;
}

void image_recipe_compare(const image_recipe *r, const image_args *args, const char *made)
{
    mica_json now;
    mica_err note = {0};
    const cJSON *was = mica_json_find(r->recipe, "model_hash");
    if (!made || mica_json_parse(&now, "recipe", made, strlen(made), NULL))
        return;
    const cJSON *is = mica_json_find(now.root, "model_hash");
    if (cJSON_IsString(was) && cJSON_IsString(is) &&
        strcmp(was->valuestring, is->valuestring) != 0 && !args->common.quiet) {
        const cJSON *name = mica_json_find(r->recipe, "model");
        MICA_FAIL(&note, MICA_OK, "%s was made with another model: %s, hash %s", args->recipe,
                  cJSON_IsString(name) ? name->valuestring : "unnamed", was->valuestring);
        cli_note(note.text);
    }
    mica_json_close(&now);
}

void image_recipe_deinit(image_recipe *r)
{
    mica_json_close(&r->json);
}
