/* cmd_speak_options.c - the command line of `mica speak`: tables and what they become. */
#include "cmd_speak.h"

/* Values index cut_names. */
static const cli_word cut_words[] = {{"cut0", 0}, {"cut1", 1}, {"cut2", 2}, {"cut3", 3},
                                     {"cut4", 4}, {"cut5", 5}, {NULL, 0}};
static const char *const cut_names[] = {"cut0", "cut1", "cut2", "cut3", "cut4", "cut5"};
static const cli_word stream_words[] = {
    {"wav", SPEAK_STREAM_WAV}, {"pcm", SPEAK_STREAM_PCM}, {NULL, 0}};

const char *speak_cut_name(int word)
{
    return cut_names[word];
}

#define AT(field) offsetof(speak_args, field)
static const cli_option speech_table[] = {
    {.name = "text",
     .letter = 't',
     .kind = CLI_TEXT,
     .offset = AT(text),
     .value = "TEXT",
     .help =
         "what to say; @FILE reads a file, - standard input, @@... is a text that begins with @"},
    {.name = "output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = AT(output),
     .value = "FILE",
     .help = "sound file to write: .wav, .flac, .ogg, .opus or .mp3 (out.wav)"},
    {.name = "float",
     .kind = CLI_FLAG,
     .offset = AT(floats),
     .help = "32-bit floats instead of 16 bits (.wav)"},
    {.name = "lang",
     .kind = CLI_TEXT,
     .offset = AT(language),
     .value = "L",
     .help = "language of the text: auto (by script), zh (mixed with English) or en"},
    {.name = "cut",
     .kind = CLI_WORD,
     .offset = AT(cut),
     .words = cut_words,
     .value = "C",
     .help =
         "where text is cut into sentences: nowhere, every four stretches, above 50 characters, "
         "at the Chinese or the English full stop, at all punctuation (cut5); one of"},
    {.name = "speed",
     .kind = CLI_DOUBLE,
     .offset = AT(speed),
     .lo = 0.25,
     .hi = 4,
     .value = "X",
     .help = "faster or slower at the same pitch (1)"},
    {.name = "pause",
     .kind = CLI_DOUBLE,
     .offset = AT(pause),
     .lo = 0,
     .hi = 60,
     .value = "S",
     .help = "seconds of silence behind a sentence (0.3)"},
    {.name = "timestamps",
     .kind = CLI_TEXT,
     .offset = AT(timestamps),
     .value = "FILE",
     .help = "when each sentence is said, as subtitles (.srt) or .json"},
    {.name = "stream",
     .kind = CLI_WORD,
     .offset = AT(stream),
     .words = stream_words,
     .value = "S",
     .help = "write sound to standard output as it is made, sentence by sentence, 16 bits; a file "
             "is then written only with -o; one of"},
    {.name = "chunk-tokens",
     .kind = CLI_INT,
     .offset = AT(chunk_tokens),
     .lo = 16,
     .hi = 1500,
     .value = "N",
     .help = "stream within sentences too, N semantic tokens (25 a second) at a time"},
};
static const cli_option voice_table[] = {
    {.name = "voice",
     .kind = CLI_TEXTS,
     .offset = AT(voices),
     .value = "FILE",
     .help = "recording of the voice, 3 to 10 seconds (of a longer one the best part is taken), a "
             ".voice file or the name of one; may be repeated: styles are averaged"},
    {.name = "voice-text",
     .kind = CLI_TEXT,
     .offset = AT(voice_text),
     .value = "TEXT",
     .help = "what is said in the first recording; @FILE as above"},
    {.name = "voice-lang",
     .kind = CLI_TEXT,
     .offset = AT(voice_language),
     .value = "L",
     .help = "its language, as --lang"},
};
static const cli_option sampling_table[] = {
    {.name = "seed",
     .kind = CLI_UINT64,
     .offset = AT(seed),
     .value = "S",
     .help = "of sampling and of the decoder's noise (0)"},
    {.name = "top-k",
     .kind = CLI_INT,
     .offset = AT(top_k),
     .lo = 1,
     .hi = 1025,
     .value = "K",
     .help = "draw from the K likeliest tokens (15)"},
    {.name = "top-p",
     .kind = CLI_DOUBLE,
     .offset = AT(top_p),
     .lo = 0.001,
     .hi = 1,
     .value = "P",
     .help = "and from the likeliest that make up P together (1)"},
    {.name = "temperature",
     .kind = CLI_DOUBLE,
     .offset = AT(temperature),
     .lo = 0.001,
     .hi = 10,
     .value = "T",
     .help = "below 1: more even, above: more varied (1)"},
    {.name = "repetition-penalty",
     .kind = CLI_DOUBLE,
     .offset = AT(penalty),
     .lo = 0.1,
     .hi = 10,
     .value = "X",
     .help = "on tokens that were there before (1.35)"},
    {.name = "greedy",
     .kind = CLI_FLAG,
     .offset = AT(greedy),
     .help = "the likeliest token always: no chance in the words"},
    {.name = "noise-scale",
     .kind = CLI_DOUBLE,
     .offset = AT(noise_scale),
     .lo = 0,
     .hi = 2,
     .value = "X",
     .help = "noise in the decoder's latent (0.5); 0: none"},
    {.name = "batch",
     .kind = CLI_INT,
     .offset = AT(batch),
     .lo = 1,
     .hi = 64,
     .value = "N",
     .help = "sentences made together (4; streams 1); changes the speed alone"},
    {.name = "retries",
     .kind = CLI_INT,
     .offset = AT(retries),
     .lo = 0,
     .hi = 20,
     .value = "N",
     .help = "how often a sentence with lost or endless words is made anew (2)"},
    {.name = "max-tokens",
     .kind = CLI_INT,
     .offset = AT(max_tokens),
     .lo = 1,
     .hi = 10000,
     .value = "N",
     .help = "longest sentence, 25 tokens a second (1500)"},
};
static const cli_option porting_table[] = {
    {.name = "ref-codes",
     .kind = CLI_TEXT,
     .offset = AT(codes),
     .value = "FILE",
     .help = "semantic codes of the reference: tensor prompt_tokens of a safetensors file"},
    {.name = "phones",
     .kind = CLI_TEXT,
     .offset = AT(phones),
     .value = "FILE",
     .help =
         "phones instead of a text: tensors phone_ids and bert_features, or a text of their names"},
    {.name = "tokens",
     .kind = CLI_TEXT,
     .offset = AT(tokens),
     .value = "FILE",
     .help = "semantic tokens instead of sampled ones: tensor semantic_tokens"},
    {.name = "trace",
     .kind = CLI_TEXT,
     .offset = AT(trace),
     .value = "FILE",
     .help = "write every named intermediate tensor to a safetensors file"},
};
#undef AT

#define AT(field) offsetof(speak_parts, field)
const cli_option speak_parts_table[] = {
    {.name = "semantic",
     .kind = CLI_TEXT,
     .offset = AT(semantic),
     .value = "PATH",
     .help = "text to semantic tokens: an s1 .ckpt; replaces MODEL's"},
    {.name = "synthesizer",
     .kind = CLI_TEXT,
     .offset = AT(synthesizer),
     .value = "PATH",
     .help = "tokens to sound: an s2G .pth, likewise"},
    {.name = "hubert",
     .kind = CLI_TEXT,
     .offset = AT(hubert),
     .value = "PATH",
     .help = "folder chinese-hubert-base, which hears recordings"},
    {.name = "bert",
     .kind = CLI_TEXT,
     .offset = AT(bert),
     .value = "PATH",
     .help = "folder chinese-roberta-wwm-ext-large, which reads Chinese"},
    {.name = "speaker",
     .kind = CLI_TEXT,
     .offset = AT(speaker),
     .value = "PATH",
     .help = "speaker network of v2Pro and v2ProPlus, an ERes2NetV2 .ckpt"},
    {.name = "g2pw",
     .kind = CLI_TEXT,
     .offset = AT(g2pw),
     .value = "PATH",
     .help = "folder G2PWModel, which chooses readings of Chinese characters"},
};
#undef AT
const size_t speak_parts_table_count = MICA_ARRAY_LEN(speak_parts_table);

static const char ABOUT[] =
    "Says a text with the voice of a recording. MODEL is a GPT-SoVITS folder (docs/SPEECH.md).\n"
    "Use only voices of people who agreed.";

mica_status speak_parse(speak_args *args, int argc, char **argv, const char **model,
                        int *help_status, mica_err *err)
{
    const cli_group groups[] = {
        {"Speech", speech_table, MICA_ARRAY_LEN(speech_table), args},
        {"Voice", voice_table, MICA_ARRAY_LEN(voice_table), args},
        {"Sampling", sampling_table, MICA_ARRAY_LEN(sampling_table), args},
        {"Parts of the model", speak_parts_table, speak_parts_table_count, &args->parts},
        {"Model", cli_engine_table, cli_engine_table_count, &args->engine},
        {"For porting and checking", porting_table, MICA_ARRAY_LEN(porting_table), args},
        {"Common", cli_common_table, cli_common_table_count, &args->common}};
    const cli_spec spec = {.name = "mica speak",
                           .usage = "MODEL -t TEXT --voice FILE [options]",
                           .about = ABOUT,
                           .groups = groups,
                           .group_count = MICA_ARRAY_LEN(groups),
                           .operand_limit = 1,
                           .operand_name = "MODEL"};
    *args = (speak_args){
        .cut = 5, .noise_scale = SPEAK_UNSET, .pause = SPEAK_UNSET, .retries = (int)SPEAK_UNSET};
    *help_status = -1;
    MICA_TRY(cli_parse(&spec, argc, argv, model, err));
    if (args->common.help)
        *help_status = cli_print_help(&spec);
    return MICA_OK;
}
