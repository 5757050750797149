/* compare_vocabulary.c - the line corpus with a real vocabulary, and the time it takes.
 *
 *     compare_vocabulary NAME TOKENIZER [pieces|json]      exit 0: equal, 1: not, 77: no such file
 *
 * pieces: written as pieces with scores and read back before, as a GGUF file has it; json: and those as a
 * tokenizer.json, which is what a folder gets that was converted from such a file.
 *
 * The vocabularies (7 and 11 MB) are not in the tree. tools/tokenizer_reference/fetch.sh puts them
 * into the build folder, where CMake looks for them (MICA_TOKENIZER_QWEN25, _QWEN3). */
#include "line_corpus.h"
#include "pieces_round_trip.h"

#include "base/clock.h"

#define SKIPPED 77

static int compare(const mica_tokenizer *t, const char *name)
{
    char path[4096];
    corpus_result result;
    snprintf(path, sizeof path, MICA_TEST_DATA "/tokenizer/%s.expected", name);
    const double start = mica_clock_seconds();
    const bool whole = corpus_compare(t, path, 10, &result);
    printf("%s: %zu lines, %zu differ, %.0f ms\n", name, result.lines, result.wrong,
           1e3 * (mica_clock_seconds() - start));
    if (!whole)
        printf("%s: lines.txt and %s do not belong together\n", name, path);
    return whole && result.wrong == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    mica_err err = {0};
    mica_tokenizer *t = NULL;
    const bool json = argc == 4 && strcmp(argv[3], "json") == 0;
    const bool pieces = json || (argc == 4 && strcmp(argv[3], "pieces") == 0);
    if (argc != 3 && !pieces) {
        fprintf(stderr, "usage: compare_vocabulary NAME FOLDER_OR_TOKENIZER.json [pieces|json]\n");
        return 2;
    }
    if (!mica_path_is_file(argv[2]) && !mica_path_is_dir(argv[2])) {
        printf("skipped: %s is not there, so the %s vocabulary was NOT compared; "
               "tools/tokenizer_reference/fetch.sh fetches it\n",
               argv[2], argv[1]);
        return SKIPPED;
    }
    const double start = mica_clock_seconds();
    if (mica_tokenizer_open(&t, argv[2], &err) != MICA_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    printf("%s: opened in %.0f ms, %d ids\n", argv[1], 1e3 * (mica_clock_seconds() - start),
           (int)mica_tokenizer_vocab_size(t));
    mica_tokenizer *back = NULL, *again = NULL;
    if ((pieces && pieces_round_trip(t, &back, &err) != MICA_OK) ||
        (json && json_round_trip(back, &again, &err) != MICA_OK)) {
        printf("%s\n", err.text);
        mica_tokenizer_close(&back);
        mica_tokenizer_close(&t);
        return 1;
    }
    const int status = compare(again ? again : back ? back : t, argv[1]);
    mica_tokenizer_close(&again);
    mica_tokenizer_close(&back);
    mica_tokenizer_close(&t);
    return status;
}
