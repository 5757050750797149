/* cmd_voice.c - `mica voice make | list`: recordings to .voice files, and which there are.
 *
 *     mica voice make anna MODEL --voice anna.wav --voice-text "..."   ~/.local/share/mica/voices/anna.voice
 *     mica speak MODEL --voice anna -t "..."
 *     mica voice list
 *
 * A voice belongs to the decoder that it was made with; another one refuses it by name. */
#include "cmd_speak.h"

#include "base/file.h"
#include "base/mem.h"

#include <string.h>
#include <strings.h>

static bool is_voice_name(const char *name)
{
    const size_t n = strlen(name);
    return n > 6 && strcasecmp(name + n - 6, ".voice") == 0;
}

/* ------------------------------------------------------------------- make -- */

#define AT(field) offsetof(speak_args, field)
static const cli_option make_table[] = {
    {.name = "voice",
     .kind = CLI_TEXTS,
     .offset = AT(voices),
     .value = "FILE",
     .help =
         "recording of 3 to 10 seconds (of a longer one the best part is taken); may be repeated: "
         "styles are averaged"},
    {.name = "voice-text",
     .kind = CLI_TEXT,
     .offset = AT(voice_text),
     .value = "TEXT",
     .help = "what is said in the first one; @FILE reads a file"},
    {.name = "voice-lang",
     .kind = CLI_TEXT,
     .offset = AT(voice_language),
     .value = "L",
     .help = "its language: auto, zh or en"},
    {.name = "output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .value = "NAME",
     .help = "file to write, NAME.voice; a bare name goes to the folder of voices"},
    CLI_END,
};
#undef AT

static const cli_group make_groups[] = {
    {"Voice", make_table, 0},
    {"Parts of the model", speak_parts_table, offsetof(speak_args, parts)},
    {"Model", cli_engine_table, offsetof(speak_args, engine)},
    {"Common", cli_common_table, offsetof(speak_args, common)},
    {.title = NULL}};
const cli_spec cmd_voice_make_spec = {
    .name = "mica voice make",
    .usage = "MODEL --voice FILE -o NAME [options]",
    .about = "Keeps what MODEL needs to know of a voice in a .voice file, so that speaking with it "
             "need not hear the recordings again.",
    .groups = make_groups,
    .operand_limit = 1,
    .operand_name = "MODEL"};

/* "anna" is a file of the voices' folder, anything else a path. */
static mica_status find_output(const char *name, char **out, mica_err *err)
{
    *out = NULL;
    if (!name)
        return MICA_FAIL(err, MICA_E_USAGE, "the voice needs a name: -o NAME");
    if (strchr(name, '/') || is_voice_name(name)) {
        if (!is_voice_name(name))
            return MICA_FAIL(err, MICA_E_USAGE, "output '%s' must end in .voice", name);
        *out = mica_mem_strdup(name);
    } else {
        char *folder = speak_voice_folder();
        if (!folder)
            return MICA_FAIL(err, MICA_E_USAGE,
                             "no folder for voices (HOME is not set); give -o FILE.voice");
        mica_text path = {0};
        const mica_status status = mica_path_make_dirs(folder, err);
        mica_text_add(&path, "%s/%s.voice", folder, name);
        mica_mem_free(folder);
        *out = path.failed ? NULL : mica_mem_strdup(path.data);
        mica_text_deinit(&path);
        MICA_TRY(status);
    }
    if (!*out)
        return MICA_FAIL(err, MICA_E_NOMEM, "out of memory");
    return cli_output_check_folder(*out, err);
}

static mica_status write_voice(speak_run *run, const char *path, mica_err *err)
{
    const mica_speech_options options = {.size = sizeof options,
                                         .voices = run->voices,
                                         .voice_count = run->args->voices.count,
                                         .progress = cli_progress_update,
                                         .progress_user = &run->progress};
    cli_signals_install();
    cli_progress_init(&run->progress, run->args->common.quiet);
    const mica_status status = mica_voice_write(run->session, &options, path);
    cli_progress_end(&run->progress);
    if (!status && !run->args->common.quiet)
        cli_note_lines(mica_session_notes(run->session));
    return speak_take_text(status, mica_session_errmsg(run->session), err);
}

static mica_status make(speak_run *run, char **path, mica_err *err)
{
    if (!run->model && !run->args->parts.synthesizer)
        return MICA_FAIL(err, MICA_E_USAGE,
                         "a voice needs the model it is for: a GPT-SoVITS folder");
    MICA_TRY(speak_find_voices(run, 1, err));
    MICA_TRY(find_output(run->args->output, path, err));
    MICA_TRY(speak_open(run, err));
    return write_voice(run, *path, err);
}

static int run_make(int argc, char **argv)
{
    speak_args args = {.cut = 5};
    mica_text result = {0};
    mica_err err = {0};
    char *path = NULL;
    speak_run run = {.args = &args};
    const int over = cli_begin(&cmd_voice_make_spec, argc, argv, &args, &run.model);
    if (over != CLI_GO)
        return over;
    const mica_status status = make(&run, &path, &err);
    if (!status && args.common.json) {
        mica_text_add(&result, "{\"command\":\"voice\",\"output\":");
        mica_text_add_json_string(&result, path);
        mica_text_add(&result, "}\n");
    } else if (!status && !args.common.quiet)
        mica_text_add(&result, "%s\n", path);
    const int exit_status = cli_end(status, &err, &result);
    mica_mem_free(path);
    speak_run_deinit(&run);
    return exit_status;
}

/* ------------------------------------------------------------------- list -- */

/* Several problems may be listed, one per line. */
static const char *first_line(char *message)
{
    message[strcspn(message, "\n")] = '\0';
    return message;
}

static void add_entry(const char *folder, const char *name, bool json, bool first, mica_text *out)
{
    mica_text path = {0};
    char message[MICA_ERR_TEXT] = "";
    mica_voice_info info = {.size = sizeof info};
    mica_text_add(&path, "%s/%s", folder, name);
    const mica_status status =
        path.failed ? MICA_E_NOMEM : mica_voice_read(path.data, &info, message, sizeof message);
    if (json) {
        mica_text_add(out, "%s{\"name\":", first ? "" : ",");
        mica_text_add_json_string(out, name);
        mica_text_add(out, ",\"model_hash\":");
        mica_text_add_json_string(out, status ? "" : info.model_hash);
        mica_text_add(out, ",\"codes\":%d,\"text\":", status ? 0 : info.codes);
        mica_text_add_json_string(out, status ? "" : info.text);
        mica_text_add(out, ",\"error\":");
        mica_text_add_json_string(out, status ? message : "");
        mica_text_add(out, "}");
    } else if (status)
        mica_text_add(out, "%.*s  cannot be read: %s\n", (int)(strlen(name) - 6), name,
                      first_line(message));
    else
        mica_text_add(out, "%.*s  model %s  %d codes  %s\n", (int)(strlen(name) - 6), name,
                      info.model_hash, info.codes, info.text[0] ? info.text : "(no transcript)");
    out->failed |= path.failed;
    mica_text_deinit(&path);
}

static mica_status list(const char *folder, bool json, mica_text *out, mica_err *err)
{
    char **names = NULL;
    size_t count = 0;
    bool first = true;
    if (mica_path_is_dir(folder))
        MICA_TRY(mica_path_list(folder, &names, &count, err));
    if (json) {
        mica_text_add(out, "{\"command\":\"voice\",\"folder\":");
        mica_text_add_json_string(out, folder);
        mica_text_add(out, ",\"voices\":[");
    }
    for (size_t i = 0; i < count; i++)
        if (is_voice_name(names[i])) {
            add_entry(folder, names[i], json, first, out);
            first = false;
        }
    if (json)
        mica_text_add(out, "]}\n");
    else if (first)
        mica_text_add(out, "no voices in %s\n", folder);
    mica_path_list_free(&names, count);
    return out->failed ? MICA_FAIL(err, MICA_E_NOMEM, "out of memory") : MICA_OK;
}

static const cli_group list_groups[] = {{"Common", cli_common_table, 0}, {.title = NULL}};
const cli_spec cmd_voice_list_spec = {
    .name = "mica voice list",
    .usage = "[FOLDER] [--json]",
    .about = "Lists the voices of a folder: those that --voice NAME finds, or of FOLDER.",
    .groups = list_groups,
    .operand_limit = 1,
    .operand_name = "FOLDER"};

static int run_list(int argc, char **argv)
{
    cli_common_args common = {0};
    const char *operand = NULL;
    mica_text result = {0};
    mica_err err = {0};
    const int over = cli_begin(&cmd_voice_list_spec, argc, argv, &common, &operand);
    if (over != CLI_GO)
        return over;
    char *folder = operand ? mica_mem_strdup(operand) : speak_voice_folder();
    mica_status status;
    if (operand && !mica_path_is_dir(operand))
        status = MICA_FAIL(&err, MICA_E_MISSING, "folder '%s' does not exist", operand);
    else if (!folder)
        status = MICA_FAIL(&err, MICA_E_USAGE, "no folder for voices: HOME is not set");
    else
        status = list(folder, common.json, &result, &err);
    const int exit_status = cli_end(status, &err, &result);
    mica_mem_free(folder);
    return exit_status;
}

int cmd_voice(int argc, char **argv)
{
    mica_err err = {0};
    if (argc > 0 && strcmp(argv[0], "make") == 0)
        return run_make(argc - 1, argv + 1);
    if (argc > 0 && strcmp(argv[0], "list") == 0)
        return run_list(argc - 1, argv + 1);
    if (argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0))
        return cli_print(
            "Usage: mica voice make MODEL --voice FILE -o NAME [options]\n"
            "       mica voice list [FOLDER]\n\n"
            "'mica voice make --help' and 'mica voice list --help' list the options.\n");
    MICA_FAIL(&err, MICA_E_USAGE, "voice needs one of: make, list");
    return cli_report_err(&err);
}
