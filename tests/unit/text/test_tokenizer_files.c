/* test_tokenizer_files.c - tokenizer files that are damaged, hostile or of another kind, and the
 * message each gets; folders with parts missing. */
#include "text_fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct bad_file {
    small_json parts;
    mica_status status;
    const char *text; /* must be in the message */
} bad_file;

#define ADDED(...) "[{" __VA_ARGS__ "}]"

static const bad_file BAD_FILES[] = {
    /* other kinds of tokenizer, by name */
    {{.model_type = "\"WordPiece\""}, MICA_E_UNSUPPORTED, "model \"WordPiece\" is not supported"},
    {{.model_type = "\"Unigram\""}, MICA_E_UNSUPPORTED, "model \"Unigram\""},
    {{.model_type = "7"}, MICA_E_FORMAT, "type"},
    {{.normalizer = "{\"type\":\"Lowercase\"}"}, MICA_E_UNSUPPORTED, "normalizer \"Lowercase\""},
    {{.normalizer = "{\"type\":\"NFKC\"}"}, MICA_E_UNSUPPORTED, "normalizer \"NFKC\""},
    {{.normalizer =
          "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\"}]}"},
     MICA_E_UNSUPPORTED,
     "normalizer \"Prepend\""},
    {{.normalizer =
          "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[]}]}"},
     MICA_E_UNSUPPORTED,
     "normalizer \"Sequence\""},
    {{.normalizer = "7"}, MICA_E_FORMAT, "type"},
    {{.pre_tokenizer = "null"}, MICA_E_UNSUPPORTED, "pre-tokenizer \"none\""},
    {{.pre_tokenizer = "{\"type\":\"Metaspace\"}"},
     MICA_E_UNSUPPORTED,
     "pre-tokenizer \"Metaspace\""},
    {{.pre_tokenizer = "{\"type\":\"Sequence\"}"},
     MICA_E_UNSUPPORTED,
     "pre-tokenizer \"Sequence\""},
    {{.pre_tokenizer = SMALL_SEQUENCE("{\"type\":\"Digits\"}," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "pre-tokenizer \"Digits\""},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("a"))},
     MICA_E_UNSUPPORTED,
     "Sequence without ByteLevel at its end"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_BYTE_LEVEL "," SMALL_SPLIT("a"))},
     MICA_E_UNSUPPORTED,
     "pre-tokenizer \"ByteLevel\""},
    {{.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, MICA_E_UNSUPPORTED, "add_prefix_space"},
    {{.pre_tokenizer =
          SMALL_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
                         "\"Removed\"}," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "Split behavior \"Removed\""},
    {{.pre_tokenizer =
          SMALL_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
                         "\"Isolated\",\"invert\":true}," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "\"invert\""},
    {{.pre_tokenizer =
          SMALL_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":"
                         "\"Isolated\"}," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "Split pattern kind \"String\""},
    {{.decoder = "null"}, MICA_E_UNSUPPORTED, "decoder \"none\""},
    {{.decoder = "{\"type\":\"WordPiece\"}"}, MICA_E_UNSUPPORTED, "decoder \"WordPiece\""},
    {{.model_options = ",\"byte_fallback\":true"}, MICA_E_UNSUPPORTED, "byte_fallback"},
    {{.model_options = ",\"byte_fallback\":1"}, MICA_E_FORMAT, "byte_fallback"},
    {{.model_options = ",\"dropout\":0.1"}, MICA_E_UNSUPPORTED, "dropout"},
    {{.model_options = ",\"dropout\":-1"}, MICA_E_FORMAT, "dropout"},
    {{.model_options = ",\"continuing_subword_prefix\":\"##\""},
     MICA_E_UNSUPPORTED,
     "continuing_subword_prefix"},
    {{.model_options = ",\"end_of_word_suffix\":\"</w>\""},
     MICA_E_UNSUPPORTED,
     "end_of_word_suffix"},
    {{.model_options = ",\"end_of_word_suffix\":7"}, MICA_E_UNSUPPORTED, "end_of_word_suffix"},
    /* patterns */
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("(a") "," SMALL_BYTE_LEVEL)},
     MICA_E_FORMAT,
     "cannot compile the pre-tokenizer pattern"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("") "," SMALL_BYTE_LEVEL)},
     MICA_E_FORMAT,
     "0 bytes"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("^a") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"^\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("ab\\\\h") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\h\" at offset 2"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("(a)\\\\1") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\1\" at offset 3"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("a\\\\") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\\" at offset 1"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("\\\\p{Han}") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\p{Han}\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("\\\\pL") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\pL\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("(?<n>a)") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"(?<n\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("(*LF)a") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"(*\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("[a&&b]") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"&&\" at offset 2"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("[[:alpha:]]") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"[:\" at offset 1"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("[^]a]") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"[^]\" at offset 0"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("[a\\\\S]") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"\\S\" at offset 2"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("a{1,2}+") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"}+\" at offset 5"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("a{,2}") "," SMALL_BYTE_LEVEL)},
     MICA_E_UNSUPPORTED,
     "uses \"{,\" at offset 1"},
    {{.pre_tokenizer =
          SMALL_SEQUENCE(SMALL_SPLIT("((abcdefghij){999}){999}") "," SMALL_BYTE_LEVEL)},
     MICA_E_FORMAT,
     "cannot compile"},
    {{.pre_tokenizer = SMALL_SEQUENCE(SMALL_SPLIT("((((((((((((((((((((((((((((((((((a)))))))))))))"
                                                  ")))))))))))))))))))))") "," SMALL_BYTE_LEVEL)},
     MICA_E_FORMAT,
     "cannot compile"},
    /* vocabulary */
    {{.vocab_extra = ",\"th\":256,\"th\":257"},
     MICA_E_FORMAT,
     "token \"th\" appears twice, with ids 256 and 257"},
    {{.vocab_extra = ",\"th\":255"}, MICA_E_FORMAT, "id 255 belongs to token"},
    {{.vocab_extra = ",\"th\":-1"}, MICA_E_FORMAT, "token \"th\" of the vocabulary has no id"},
    {{.vocab_extra = ",\"th\":4194304"}, MICA_E_FORMAT, "has no id in 0..4194303"},
    {{.vocab_extra = ",\"th\":1e300"}, MICA_E_FORMAT, "has no id"},
    {{.vocab_extra = ",\"th\":256.5"}, MICA_E_FORMAT, "has no id"},
    {{.vocab_extra = ",\"th\":\"256\""}, MICA_E_FORMAT, "has no id"},
    {{.vocab_extra = ",\"a\\u001b[2J\":null"}, MICA_E_FORMAT, "token \"a?[2J\" of the vocabulary"},
    {{.vocab_extra = ",\"\":256"}, MICA_E_FORMAT, "the token of id 256 has 0 bytes"},
    {{.vocab_extra = ",\"\xff\xfe\":256"}, MICA_E_FORMAT, ""},
    /* merges */
    {{.merges = "7"}, MICA_E_FORMAT, "merges is not an array"},
    {{.merges = "[7]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[\"th\"]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[\"t h e\"]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[[\"t\"]]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[[\"t\",7]]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[[\"t\",\"h\",\"e\"]]"}, MICA_E_FORMAT, "merge 0 is neither"},
    {{.merges = "[\"t h\",\"t x\"]"},
     MICA_E_FORMAT,
     "merge 1 needs token \"tx\", which the vocabulary lacks"},
    {{.merges = "[\"qq x\"]"}, MICA_E_FORMAT, "merge 0 needs token \"qq\""},
    {{.merges = "[\" x\"]"}, MICA_E_FORMAT, "merge 0 needs token \"\""},
    /* added tokens */
    {{.added = "7"}, MICA_E_FORMAT, "added_tokens is not an array"},
    {{.added = "[7]"}, MICA_E_FORMAT, "id"},
    {{.added = ADDED("\"content\":\"<x>\"")}, MICA_E_FORMAT, "id"},
    {{.added = ADDED("\"id\":300")}, MICA_E_FORMAT, "content"},
    {{.added = ADDED("\"id\":300,\"content\":7")}, MICA_E_FORMAT, "content"},
    {{.added = ADDED("\"id\":300,\"content\":\"\"")}, MICA_E_FORMAT, "id 300 has 0 bytes"},
    {{.added = ADDED("\"id\":-3,\"content\":\"<x>\"")}, MICA_E_FORMAT, "id"},
    {{.added = ADDED("\"id\":4194304,\"content\":\"<x>\"")}, MICA_E_FORMAT, "id"},
    {{.added = ADDED("\"id\":300,\"content\":\"<x>\",\"lstrip\":\"yes\"")},
     MICA_E_FORMAT,
     "lstrip"},
    {{.added = ADDED("\"id\":65,\"content\":\"<x>\"")},
     MICA_E_FORMAT,
     "id 65 belongs to token \"A\" and to \"<x>\""},
    {{.added = ADDED("\"id\":300,\"content\":\"th\"")},
     MICA_E_FORMAT,
     "added token \"th\" has id 300, the vocabulary gives it 256"},
    {{.added = ADDED("\"id\":300,\"content\":\"<x>\"},{\"id\":300,\"content\":\"<y>\"")},
     MICA_E_FORMAT,
     "id 300 belongs to token \"<x>\" and to \"<y>\""},
};

static void test_bad_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(BAD_FILES); i++) {
        mica_err err = {0};
        mica_tokenizer *t = NULL;
        const mica_status status = small_json_open(&BAD_FILES[i].parts, &t, &err);
        if (status != BAD_FILES[i].status || strstr(err.text, BAD_FILES[i].text) == NULL ||
            strstr(err.text, "t.json") == NULL)
            fail_msg("file %zu: status %d, \"%s\"; expected %d and \"%s\"", i, (int)status,
                     err.text, (int)BAD_FILES[i].status, BAD_FILES[i].text);
        assert_null(t);
    }
}

static void expect_refused_text(const char *text, size_t size, const char *message)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    assert_int_not_equal(mica_tokenizer_open_json(&t, "t.json", text, size, &err), MICA_OK);
    assert_null(t);
    if (strstr(err.text, message) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, message);
}

static void test_not_a_tokenizer(void **state)
{
    (void)state;
    expect_refused_text("", 0, "t.json");
    expect_refused_text("[]", 2, "t.json: the file is not a JSON object");
    expect_refused_text("{}", 2, "t.json");
    expect_refused_text("{\"model\":{}}", 12, "t.json");
    expect_refused_text("{\"model\":{\"vocab\":{},\"merges\":[]}}", 34, "t.json");
}

/* Every prefix of a file that opens is refused; the last byte is its closing brace. */
static void test_truncated(void **state)
{
    (void)state;
    mica_text text = {0};
    small_json_write(&text, &(small_json){0});
    for (size_t size = 0; size < text.size; size += size < 600 ? 1 : 37) {
        mica_err err = {0};
        mica_tokenizer *t = NULL;
        char *copy = mica_mem_strndup(text.data, size); /* its end is seen by a sanitizer */
        assert_int_not_equal(mica_tokenizer_open_json(&t, "t.json", copy, size, &err), MICA_OK);
        assert_null(t);
        mica_mem_free(copy);
    }
    mica_text_deinit(&text);
}

/* A vocabulary without the token of one byte could not spell every text. */
static void test_incomplete_alphabet(void **state)
{
    (void)state;
    mica_text text = {0};
    small_json_write(&text, &(small_json){.merges = "[]"});
    char *at = strstr(text.data, "\"A\":65,");
    assert_non_null(at);
    memmove(at, at + 7, strlen(at + 7) + 1);
    expect_refused_text(text.data, text.size - 7, "no token \"A\" for byte 0x41");
    mica_text_deinit(&text);
}

#define THREE_SPLITS SMALL_SPLIT("a") "," SMALL_SPLIT("b") "," SMALL_SPLIT("c")
#define NINE_SPLITS  THREE_SPLITS "," THREE_SPLITS "," THREE_SPLITS

static void test_too_many_patterns(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    const small_json nine = {.pre_tokenizer = SMALL_SEQUENCE(NINE_SPLITS "," SMALL_BYTE_LEVEL)};
    assert_int_equal(small_json_open(&nine, &t, &err), MICA_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "more than 8 pre-tokenizer patterns"));
}

/* ---- folders ---- */

typedef struct folder {
    char path[64];
} folder;

static void folder_make(folder *f)
{
    strcpy(f->path, "mica-text-XXXXXX");
    assert_non_null(mkdtemp(f->path));
}

static void folder_path(const folder *f, const char *file, char *path, size_t size)
{
    snprintf(path, size, "%s/%s", f->path, file);
}

static void folder_write(const folder *f, const char *file, const char *text, size_t size)
{
    char path[256];
    folder_path(f, file, path, sizeof path);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(text, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

static void folder_remove(const folder *f)
{
    static const char *const files[] = {"vocab.json",
                                        "merges.txt",
                                        "tokenizer.json",
                                        "added_tokens.json",
                                        "special_tokens_map.json",
                                        "tokenizer_config.json"};
    char path[256];
    for (size_t i = 0; i < MICA_ARRAY_LEN(files); i++) {
        folder_path(f, files[i], path, sizeof path);
        if (unlink(path) != 0)
            assert_int_equal(errno, ENOENT);
    }
    assert_int_equal(rmdir(f->path), 0);
}

static void folder_write_vocab(const folder *f)
{
    mica_text text = {0};
    mica_text_add(&text, "{");
    for (int byte = 0; byte < 256; byte++) {
        char spelling[5] = {0};
        mica_utf8_encode(mica_byte_to_symbol((uint8_t)byte), spelling);
        mica_text_add_json_string(&text, spelling);
        mica_text_add(&text, ":%d,", byte);
    }
    mica_text_add(&text, "\"th\":256,\"the\":257}");
    folder_write(f, "vocab.json", text.data, text.size);
    mica_text_deinit(&text);
}

typedef struct folder_case {
    const char *merges, *config, *added, *special; /* NULL: no such file */
    mica_status status;
    const char *text;
} folder_case;

#define CLASS  "\"tokenizer_class\":\"Qwen2Tokenizer\""
#define MERGES "#version: 0.2\nt h\nth e\n"

static const folder_case FOLDERS[] = {
    {MERGES, "{" CLASS "}", NULL, NULL, MICA_OK, ""},
    {"t h\r\nth e\r\n", "{" CLASS "}", NULL, NULL, MICA_OK, ""},
    {"t h\nth e", "{\"tokenizer_class\":\"Qwen2TokenizerFast\"}", NULL, NULL, MICA_OK, ""},
    {MERGES, NULL, "{\"<|im_start|>\":300,\"<|endoftext|>\":301}", NULL, MICA_OK, ""},
    {NULL, "{" CLASS "}", NULL, NULL, MICA_E_MISSING, "neither tokenizer.json nor vocab.json"},
    {MERGES, NULL, NULL, NULL, MICA_E_MISSING, "do not say how text is split"},
    {MERGES, "{\"tokenizer_class\":\"CLIPTokenizer\"}", NULL, NULL, MICA_E_UNSUPPORTED,
     "tokenizer_class \"CLIPTokenizer\""},
    {MERGES, "{\"tokenizer_class\":7}", NULL, NULL, MICA_E_UNSUPPORTED, "tokenizer_class \"\""},
    {MERGES, "{" CLASS ",\"add_prefix_space\":true}", NULL, NULL, MICA_E_UNSUPPORTED,
     "add_prefix_space"},
    {MERGES, "[]", NULL, NULL, MICA_E_FORMAT,
     "tokenizer_config.json: the file is not a JSON object"},
    {MERGES, "{", NULL, NULL, MICA_E_FORMAT, "tokenizer_config.json"},
    {"t h\nthe\n", "{" CLASS "}", NULL, NULL, MICA_E_FORMAT,
     "merges.txt: merge 1 is not \"left right\": \"the\""},
    {"t h\nt h e\n", "{" CLASS "}", NULL, NULL, MICA_E_FORMAT, "merge 1 is not"},
    {"t h\nt x\n", "{" CLASS "}", NULL, NULL, MICA_E_FORMAT,
     "merges.txt: merge 1 needs token \"tx\""},
    {MERGES, "{" CLASS "}", "{\"<x>\":\"300\"}", NULL, MICA_E_FORMAT, "added_tokens.json"},
    {MERGES, "{" CLASS "}", "[]", NULL, MICA_E_FORMAT, "added_tokens.json: the file is not"},
    {MERGES, "{" CLASS "}", "{\"<x>\":300}", "7", MICA_E_FORMAT, "special_tokens_map.json"},
    {MERGES, "{" CLASS ",\"added_tokens_decoder\":[]}", NULL, NULL, MICA_E_FORMAT,
     "added_tokens_decoder is not an object"},
    {MERGES, "{" CLASS ",\"added_tokens_decoder\":{\"x\":{\"content\":\"<x>\"}}}", NULL, NULL,
     MICA_E_FORMAT, "added_tokens_decoder has the key \"x\""},
    {MERGES, "{" CLASS ",\"added_tokens_decoder\":{\"9999999999\":{\"content\":\"<x>\"}}}", NULL,
     NULL, MICA_E_FORMAT, "has the key \"9999999999\""},
    {MERGES, "{" CLASS ",\"added_tokens_decoder\":{\"300\":{}}}", NULL, NULL, MICA_E_FORMAT,
     "content"},
    {MERGES, "{" CLASS ",\"added_tokens_decoder\":{\"300\":{\"content\":\"<x>\"}}}",
     "{\"<x>\":301}", NULL, MICA_E_FORMAT,
     "added token \"<x>\" has id 301, the vocabulary gives it 300"},
};

static void check_folder(const folder_case *c)
{
    folder f;
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    folder_make(&f);
    folder_write_vocab(&f);
    if (c->merges != NULL)
        folder_write(&f, "merges.txt", c->merges, strlen(c->merges));
    if (c->config != NULL)
        folder_write(&f, "tokenizer_config.json", c->config, strlen(c->config));
    if (c->added != NULL)
        folder_write(&f, "added_tokens.json", c->added, strlen(c->added));
    if (c->special != NULL)
        folder_write(&f, "special_tokens_map.json", c->special, strlen(c->special));
    const mica_status status = mica_tokenizer_open(&t, f.path, &err);
    folder_remove(&f);
    if (status != c->status || strstr(err.text, c->text) == NULL)
        fail_msg("status %d, \"%s\"; expected %d and \"%s\"", (int)status, err.text, (int)c->status,
                 c->text);
    if (status == MICA_OK)
        expect_encoding(t, "the the", 7, (const int32_t[]){257, 32, 257}, 3);
    mica_tokenizer_close(&t);
}

static void test_folders(void **state)
{
    (void)state;
    for (size_t i = 0; i < MICA_ARRAY_LEN(FOLDERS); i++)
        check_folder(&FOLDERS[i]);
}

static void test_absent_paths(void **state)
{
    (void)state;
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    assert_int_not_equal(mica_tokenizer_open(&t, "no-such-folder", &err), MICA_OK);
    assert_non_null(strstr(err.text, "no-such-folder"));
    assert_null(t);
    mica_tokenizer_close(&t);
    mica_tokenizer_close(NULL);
}

/* added_tokens.json has no flags: what special_tokens_map.json names is special. */
static void test_special_of_old_folders(void **state)
{
    (void)state;
    static const char added[] = "{\"<a>\":300,\"<b>\":301,\"<c>\":302,\"<d>\":303}";
    static const char special[] = "{\"eos_token\":\"<a>\",\"pad_token\":{\"content\":\"<b>\"},"
                                  "\"additional_special_tokens\":[\"<c>\",7]}";
    folder f;
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    folder_make(&f);
    folder_write_vocab(&f);
    folder_write(&f, "merges.txt", MERGES, strlen(MERGES));
    folder_write(&f, "tokenizer_config.json", "{" CLASS "}", strlen("{" CLASS "}"));
    folder_write(&f, "added_tokens.json", added, strlen(added));
    folder_write(&f, "special_tokens_map.json", special, strlen(special));
    const mica_status status = mica_tokenizer_open(&t, f.path, &err);
    folder_remove(&f);
    if (status != MICA_OK)
        fail_msg("%s", err.text);
    expect_encoding(t, "<a><b><c><d>", 12, (const int32_t[]){300, 301, 302, 303}, 4);
    expect_decoding(t, (const int32_t[]){300, 301, 302, 303}, 4, true, "<d>");
    mica_tokenizer_close(&t);
}

/* A tokenizer.json is completed by the added_tokens_decoder of the config beside it. */
static void test_config_completes_tokenizer_json(void **state)
{
    (void)state;
    static const char config[] =
        "{\"added_tokens_decoder\":{\"300\":{\"content\":\"<x>\",\"special\":"
        "true,\"normalized\":false},\"256\":{\"content\":\"th\"}}}";
    folder f;
    mica_err err = {0};
    mica_text text = {0};
    mica_tokenizer *t = NULL;
    folder_make(&f);
    small_json_write(&text, &(small_json){0});
    folder_write(&f, "tokenizer.json", text.data, text.size);
    folder_write(&f, "tokenizer_config.json", config, strlen(config));
    mica_text_deinit(&text);
    const mica_status status = mica_tokenizer_open(&t, f.path, &err);
    folder_remove(&f);
    if (status != MICA_OK)
        fail_msg("%s", err.text);
    expect_encoding(t, "<x>the", 6, (const int32_t[]){300, 256, 101}, 3); /* "th" is now cut out */
    assert_int_equal(mica_tokenizer_find(t, "<x>"), 300);
    assert_int_equal(mica_tokenizer_vocab_size(t), 301);
    mica_tokenizer_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_not_a_tokenizer),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_incomplete_alphabet),
        cmocka_unit_test(test_too_many_patterns),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_absent_paths),
        cmocka_unit_test(test_special_of_old_folders),
        cmocka_unit_test(test_config_completes_tokenizer_json),
    };
    return cmocka_run_group_tests_name("tokenizer_files", tests, NULL, NULL);
}
