/* mica.h - the whole public interface of Mica.
 *
 *     mica_engine     one loaded model: weights mapped, shapes checked. Immutable
 *        |            after open; any number of sessions may share it.
 *        v
 *     mica_session    one mutable run: scratch memory, counters, error text.
 *        |            One thread at a time; two sessions may run in two threads.
 *        v
 *     mica_image, mica_speech, mica_completion    results the caller owns until their close
 *
 * Conventions
 *   - Options structs begin with `size`, which the caller sets to sizeof the
 *     struct; every other field may stay zero and then means its default. What they
 *     point to is read during the call alone. Structs with `size`, and those that only
 *     callbacks receive, may grow at their end in later versions; others never change.
 *   - Fallible functions return mica_status; 0 is success. The text of the last
 *     failure is kept by the handle (mica_engine_errmsg, mica_session_errmsg) and
 *     stays valid until the next call on that handle. Open functions give a
 *     handle even on failure (unless memory ran out), so that the text can be read;
 *     it must be closed all the same.
 *   - `T **out` hands ownership to the caller; exactly one close function takes it
 *     back, accepts NULL, and clears the pointer.
 *   - `const` pointers that are returned are borrowed: valid until the close of what
 *     they were asked of, or sooner where it says so.
 *   - Functions that only tell something accept NULL, and then tell 0, "" or NULL;
 *     MICA_E_USAGE where they return a status, also for an index out of range.
 *   - Functions of different sessions may run in different threads at once. Engines,
 *     once open, and results may be read from several.
 *   - Strings are UTF-8. Nothing here prints, exits, or reads the environment.
 */
#ifndef MICA_MICA_H
#define MICA_MICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MICA_API __attribute__((visibility("default")))
#else
#define MICA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define MICA_VERSION_MAJOR 0
#define MICA_VERSION_MINOR 1
#define MICA_VERSION_PATCH 0

/* "0.1.0"; static storage. */
MICA_API const char *mica_version(void);

typedef enum mica_status {
    MICA_OK = 0,
    MICA_E_USAGE = -1,       /* the caller's arguments are wrong */
    MICA_E_NOMEM = -2,       /* memory could not be had */
    MICA_E_IO = -3,          /* the operating system refused a file operation */
    MICA_E_FORMAT = -4,      /* a file is damaged or not what it claims to be */
    MICA_E_MISSING = -5,     /* a file, part, tensor or name is absent */
    MICA_E_UNSUPPORTED = -6, /* understood, but not available here */
    MICA_E_CANCELLED = -7,   /* the progress callback asked to stop */
    MICA_E_NUMERIC = -8,     /* NaN or Inf where a finite value must be */
    MICA_E_INTERNAL = -9     /* a defect of Mica itself */
} mica_status;

/* Short English name of a status, e.g. "out of memory"; static storage. */
MICA_API const char *mica_status_name(mica_status status);

typedef struct mica_engine mica_engine;
typedef struct mica_session mica_session;
typedef struct mica_image mica_image;
typedef struct mica_report mica_report;

/* ---------------------------------------------------------------- engine -- */

typedef enum mica_device { MICA_DEVICE_AUTO = 0, MICA_DEVICE_CPU, MICA_DEVICE_CUDA } mica_device;

typedef enum mica_precision {
    MICA_PRECISION_AUTO = 0, /* bf16 */
    MICA_PRECISION_F32,  /* f32 arithmetic from the stored weights; for parity with references */
    MICA_PRECISION_BF16, /* bf16 operands, f32 sums; f32 operands where the CPU has no bf16 unit */
    MICA_PRECISION_INT8, /* int8 operands in the large linears, sensitive layers as in BF16; CPUs */
    MICA_PRECISION_FP8   /* the same with e4m3 operands; GPUs of compute capability 9.x */
} mica_precision;

/* Highest instruction-set level the CPU kernels may use; AUTO takes the best the
 * machine has. A level the machine lacks is MICA_E_UNSUPPORTED. */
typedef enum mica_cpu_level {
    MICA_CPU_LEVEL_AUTO = 0,
    MICA_CPU_LEVEL_BASELINE,     /* plain C for the target's baseline */
    MICA_CPU_LEVEL_V2,           /* x86-64-v2: SSE4.2 */
    MICA_CPU_LEVEL_V3,           /* x86-64-v3: AVX2, FMA, F16C */
    MICA_CPU_LEVEL_V4,           /* x86-64-v4: AVX-512 F/BW/CD/DQ/VL */
    MICA_CPU_LEVEL_V4_BF16_VNNI, /* v4 with AVX512_VNNI and AVX512_BF16 */
    MICA_CPU_LEVEL_V4_AMX        /* these with the matrix unit: AMX_TILE, AMX_BF16 and AMX_INT8 */
} mica_cpu_level;

/* A LoRA, DoRA, LoHa or LoKr file and how much of it: scale 1 is as it was trained; it may be negative. 0: 1. */
typedef struct mica_lora_input {
    const char *path;
    double scale;
} mica_lora_input;

typedef struct mica_engine_options {
    size_t size;             /* sizeof(mica_engine_options) */
    const char *model;       /* folder or file; NULL: the demo model */
    const char *transformer; /* parts given one by one override those of `model` */
    const char *text_encoder;
    const char *vae;
    const char *tokenizer;
    mica_device device;
    mica_precision precision;
    mica_cpu_level cpu_level; /* of the whole process */
    int threads;              /* 0: one per available core */
    /* Technique switches for measurements; false means on. See docs/ARCHITECTURE.md. */
    bool ablate_rope_once;
    bool ablate_modulation_once;
    bool ablate_fusion;
    bool ablate_batched_cfg;
    bool ablate_trim;
    bool ablate_joining;  /* linears of one input one by one */
    bool ablate_branches; /* devices: one stream */
    bool ablate_replays;  /* devices: no recordings of a step */
    /* Random full-width weights instead of files, e.g. "qwen-image:layers=2"; see docs/CLI.md. */
    const char *synthetic;
    /* Adapters for the transformer, any weights and precision; those of one layer add up. */
    const mica_lora_input *loras;
    int lora_count; /* at most 64 */
    /* Parts of a speech model given one by one: files or folders. */
    const char *semantic;    /* text to semantic tokens: s1*.ckpt */
    const char *synthesizer; /* tokens to sound: s2G*.pth */
    const char *hubert;      /* chinese-hubert-base */
    const char *bert;        /* chinese-roberta-wwm-ext-large */
    const char *speaker;     /* ERes2NetV2, for v2Pro and v2ProPlus */
    /* Bytes of a device's memory that this process may take; 0: what is free. Blocks of a network whose
     * weights do not fit stay in the host's memory and are copied while the block before computes. */
    uint64_t vram_limit;
    bool demo_text; /* without a model: the demo model that writes text, not the one that draws */
    const char
        *g2pw; /* a part of a speech model too: g2pW.onnx, its folder, or the same converted */
    /* Of a mixture of experts on a device: layers whose experts the CPU computes from the host's memory.
     * 0: as many as the device has no room for; -1: none, they are copied for every use. */
    int host_experts;
} mica_engine_options;

/* Opens and checks a model: every tensor's name, shape, dtype and range, without
 * reading weight data. *out is set even on failure (NULL only when memory ran out). */
MICA_API mica_status mica_engine_open(mica_engine **out, const mica_engine_options *options);
/* Sessions are closed before; results stay. */
MICA_API void mica_engine_close(mica_engine **engine);
/* Why the engine could not be opened; "" when it is open. */
MICA_API const char *mica_engine_errmsg(const mica_engine *engine);
/* What opening has to tell beside success: one line per remark (layers of a LoRA that the model does not
 * have, why MICA_DEVICE_AUTO passed a GPU over, ...), "" when there is nothing. */
MICA_API const char *mica_engine_notes(const mica_engine *engine);
/* Where sessions of the engine compute: "cpu" or "cuda". */
MICA_API const char *mica_engine_device(const mica_engine *engine);

/* --------------------------------------------------------------- session -- */

/* A session of an engine, which it must not outlive: scratch memory and threads, on the device of the engine's
 * options. *out is set even on failure (NULL only when memory ran out). */
MICA_API mica_status mica_session_open(mica_session **out, mica_engine *engine);
/* Results stay. */
MICA_API void mica_session_close(mica_session **session);
/* Why the session's last call failed; "" when it did not. */
MICA_API const char *mica_session_errmsg(const mica_session *session);

typedef enum mica_phase {
    MICA_PHASE_TEXT = 0, /* tokenizer and text encoder */
    MICA_PHASE_PREPARE,  /* noise, schedule, rotary and modulation tables */
    MICA_PHASE_DENOISE,
    MICA_PHASE_DECODE,  /* VAE */
    MICA_PHASE_CONVERT, /* mica_convert */
    MICA_PHASE_COUNT
} mica_phase;

/* What a run tells while it works. Called from the thread that runs, several times
 * a step (once per transformer block); must not call into the same session.
 * Return false to stop: the run ends with MICA_E_CANCELLED within one block. */
typedef struct mica_progress {
    mica_phase phase;
    int step, step_count;   /* finished and total solver steps; 0 outside MICA_PHASE_DENOISE */
    int block, block_count; /* finished and total blocks of the running network pass */
    double seconds;         /* since the run began */
    const char *notice;     /* one line for the user (e.g. a rounded size), usually NULL */
} mica_progress;
typedef bool (*mica_progress_fn)(void *user, const mica_progress *progress);

typedef enum mica_solver {
    MICA_SOLVER_DEFAULT = 0, /* the checkpoint's own: flow-match Euler */
    MICA_SOLVER_EULER,
    MICA_SOLVER_HEUN,
    MICA_SOLVER_DPMPP_2M,
    MICA_SOLVER_UNIPC
} mica_solver;

typedef enum mica_noise_rng {
    MICA_NOISE_RNG_F32 = 0,      /* torch CPU generator, drawn in f32 */
    MICA_NOISE_RNG_TORCH211_BF16 /* as torch 2.11 draws bfloat16 tensors */
} mica_noise_rng;

/* A picture that a run reads: a PNG, JPEG or WebP file, or pixels in memory. Transparency is
 * ignored; an EXIF orientation is applied. */
typedef struct mica_image_input {
    const char *path;   /* NULL: pixels in memory */
    const uint8_t *rgb; /* height * width * 3, rows top to bottom without padding */
    int width, height;
} mica_image_input;

/* What Qwen-Image does with pictures that it does not start from. */
typedef enum mica_edit {
    MICA_EDIT_AUTO = 0, /* what the model's files say */
    MICA_EDIT_OFF,      /* text to picture */
    MICA_EDIT_SINGLE,   /* Qwen-Image-Edit: the prompt refers to one picture */
    MICA_EDIT_PLUS      /* Qwen-Image-Edit-2509, -2511: to "Picture 1", "Picture 2", ... */
} mica_edit;

/* Where Qwen-Image's text encoder places the rows of a picture among those of the text. */
typedef enum mica_positions {
    MICA_POSITIONS_AUTO = 0, /* SEQUENCE, with a notice */
    MICA_POSITIONS_SEQUENCE, /* one behind the other: diffusers 0.40 with transformers 5 */
    MICA_POSITIONS_GRID      /* in rows and columns: with transformers 4, and in training */
} mica_positions;

typedef enum mica_choice { MICA_CHOICE_AUTO = 0, MICA_CHOICE_YES, MICA_CHOICE_NO } mica_choice;

/* Steps that take the network's output of the step before where it hardly changes. */
typedef enum mica_step_caching {
    MICA_STEP_CACHING_OFF = 0,
    MICA_STEP_CACHING_BALANCED,
    MICA_STEP_CACHING_FAST
} mica_step_caching;

/* How it is known that the output hardly changes. */
typedef enum mica_caching_method {
    MICA_CACHING_AUTO = 0,   /* the model's */
    MICA_CACHING_OUTPUT,     /* from the latents: the output of the step before is taken again */
    MICA_CACHING_FIRST_BLOCK /* from what the first block adds: it alone is computed */
} mica_caching_method;

typedef struct mica_image_options {
    size_t size;                 /* sizeof(mica_image_options) */
    const char *prompt;          /* required; UTF-8, invalid sequences become U+FFFD */
    const char *negative_prompt; /* NULL: no guidance, as the reference pipelines do */
    int width, height; /* pixels; 0: the model's default. Rounded down to the model's multiple */
    int steps;         /* 0: the model's default */
    double guidance;   /* classifier-free guidance scale; 0: the model's default; negative: off;
                          up to 1 (Z-Image, whose scale counts from 0: none): off */
    uint64_t seed;     /* image b of a batch uses seed + b */
    int batch;         /* 0 means 1 */
    mica_solver solver;
    const char *
        schedule; /* NULL: the checkpoint's; "linear", "karras", "exponential", "beta", "lightning" */
    const double *sigmas; /* own sigmas instead of `steps` and the schedule's spacing */
    int sigma_count;
    mica_noise_rng noise_rng;
    bool round_timesteps_bf16; /* the reference's bf16 runs round timesteps; off: exact */
    int vae_tile;              /* 0: automatic; -1: off; N: rows of latents decoded at a time */
    int max_text_tokens;       /* 0: the model's limit */
    const char *noise_path; /* safetensors file whose `initial_latents` replaces the seed's noise */
    const char *trace_path; /* safetensors file that receives every named tap */
    mica_progress_fn progress;
    void *progress_user;
    /* Pictures. With strength, mask or expand_, or with a model that takes no references, the
     * first one is where denoising starts; otherwise the prompt refers to them, in order. */
    const mica_image_input *inputs;
    int input_count;
    double strength; /* 0: the default; above 0, at most 1: how much of the start picture changes */
    const mica_image_input *mask; /* white: repainted, black: comes back untouched; resized to the
                                     start picture where sizes differ */
    int expand_[4];               /* pixels of new border: left, top, right, bottom */
    int ref_pixels;    /* area that references are scaled to for the VAE; 0: the model's */
    int vision_pixels; /* the same for the text encoder's vision part */
    mica_edit edit;    /* how Qwen-Image edits */
    mica_positions picture_positions;
    int layers;            /* Qwen-Image-Layered: how many pictures one is taken apart into; 0: 4 */
    mica_choice distilled; /* few steps without guidance; AUTO: what the model's files say */
    double cfg_normalization; /* Z-Image: limit of the guided prediction's length as a multiple of
                                 the prompt's; 0: none */
    double cfg_truncation;    /* Z-Image: no guidance from this part of the run on, 0 to 1; 0: 1 */
    const char
        *prompt_cache; /* folder where text features of prompts are kept between runs, made when
                                 needed; may be shared by processes. NULL: none */
    uint64_t prompt_cache_bytes; /* what it may hold; 0: 512 MiB */
    mica_step_caching step_caching;
    mica_caching_method caching_method;
} mica_image_options;

/* Runs text to picture; *out receives `batch` pictures of equal size. On failure
 * *out is NULL and mica_session_errmsg tells why. */
MICA_API mica_status mica_image_generate(mica_session *session, const mica_image_options *options,
                                         mica_image **out);
MICA_API void mica_image_close(mica_image **image);

MICA_API int mica_image_count(const mica_image *image); /* pictures of a batch, or layers */
MICA_API int mica_image_width(const mica_image *image); /* of each, in pixels */
MICA_API int mica_image_height(const mica_image *image);
MICA_API int mica_image_channels(const mica_image *image); /* 3, or 4: layers have transparency */
/* The seed that picture `index` was made from. */
MICA_API uint64_t mica_image_seed(const mica_image *image, int index);
/* height * width * channels bytes: RGB or RGBA, rows top to bottom without padding; borrowed. NULL
 * when index is out of range. */
MICA_API const uint8_t *mica_image_rgb(const mica_image *image, int index);
/* Writes one picture by the extension of `path` (.png, .jpg, .jpeg, .webp) with its
 * recipe in the metadata; the file appears whole or not at all. `message` (may be
 * NULL) receives up to message_size bytes of error text. */
MICA_API mica_status mica_image_write(const mica_image *image, int index, const char *path,
                                      char *message, size_t message_size);
/* Takes the bytes of a file, piece by piece in order. Return false to stop: MICA_E_IO. */
typedef bool (*mica_write_fn)(void *user, const void *data, size_t size);
/* The same bytes to the caller instead of a file: for memory, a pipe or a connection. `name` tells the kind by its
 * extension ("picture.png") and messages what they are about. */
MICA_API mica_status mica_image_encode(const mica_image *image, int index, const char *name,
                                       mica_write_fn write, void *user, char *message,
                                       size_t message_size);
/* One picture of all pictures of `count` images of one size, row by row in `columns` columns, with a
 * white gap between them; its recipe holds theirs. On failure *out is NULL; `message` as above. */
MICA_API mica_status mica_image_sheet(mica_image **out, const mica_image *const *images, int count,
                                      int columns, char *message, size_t message_size);
/* The recipe of one picture as a JSON object (prompt, seed, steps, ...); borrowed. */
MICA_API const char *mica_image_recipe(const mica_image *image, int index);

/* What the last run of a session cost. */
typedef struct mica_run_stats {
    size_t size; /* set by the caller */
    double seconds[MICA_PHASE_COUNT];
    double steps_per_second;      /* over MICA_PHASE_DENOISE */
    uint64_t peak_memory;         /* bytes resident at the worst moment, process-wide */
    uint64_t block_allocations;   /* allocations inside blocks after the first step: 0 */
    uint64_t block_waits;         /* host-device waits inside blocks: 0 */
    uint64_t rope_builds;         /* rotary tables built: 1 per generation */
    uint64_t modulation_matmuls;  /* batched modulation matmuls */
    uint64_t prompt_cache_hits;   /* 1: the text encoder was not needed */
    uint64_t skipped_evaluations; /* of the network, by step_caching */
    uint64_t device_memory;    /* bytes taken of the device's memory at the worst moment; 0: CPU */
    uint64_t streamed_weights; /* bytes that did not fit and were copied for every use */
    uint64_t step_waits;       /* waits in the denoising loop that let the device run dry: 0 */
} mica_run_stats;
/* Before the first run: zeros. */
MICA_API mica_status mica_session_stats(const mica_session *session, mica_run_stats *stats);

/* Channels of the pictures that the session's model makes: 3, or 4 with transparency, which a JPEG
 * cannot hold. */
MICA_API int mica_session_channels(const mica_session *session);

/* Token ids the session's model sees for `text`, template included for prompts.
 * *ids is borrowed until the next call on the session. */
MICA_API mica_status mica_session_tokens(mica_session *session, const char *text,
                                         const int32_t **ids, size_t *count);

/* ---------------------------------------------------------------- speech -- */

/* One recording of the voice to speak with: 3 to 10 seconds in any format libsndfile reads, or a
 * .voice file, which holds what a model needs to know of recordings. */
typedef struct mica_voice_input {
    const char *path; /* required */
    const char *text; /* what is said in it, UTF-8; NULL: not known (or as the .voice file says) */
    const char *language; /* of that text: "zh", "en", "auto" (NULL: "auto") */
} mica_voice_input;

/* A piece of finished speech. Called in order, from the thread that runs; `samples` are mono and
 * valid during the call. Return false to stop: MICA_E_CANCELLED. */
typedef struct mica_speech_chunk {
    const float *samples;
    size_t count;
    int rate;     /* samples per second */
    int sentence; /* the one it belongs to, from 0; silence between two belongs to the first */
    bool last;    /* nothing follows */
} mica_speech_chunk;
typedef bool (*mica_speech_fn)(void *user, const mica_speech_chunk *chunk);

typedef struct mica_speech_options {
    size_t size;          /* sizeof(mica_speech_options) */
    const char *text;     /* UTF-8; required unless phones_path is given */
    const char *language; /* "zh", "en" (each mixed with English), "auto"; NULL: "auto" */
    const char *cut;      /* how text is cut into sentences: "cut0" to "cut5"; NULL: "cut5" */
    /* The first voice is what is continued: its transcript and semantic codes stand before the text.
     * Further ones only take part in the mean of the styles. */
    const mica_voice_input *voices;
    int voice_count;
    uint64_t seed; /* each sentence has a stream of its own, so neither batch nor order matter */
    int top_k;     /* 0: 15 */
    double top_p;  /* 0: 1 */
    double temperature;        /* 0: 1 */
    double repetition_penalty; /* 0: 1.35 */
    bool greedy;               /* the likeliest token always */
    double noise_scale;        /* of the decoder's latent; 0: 0.5; negative: none */
    double speed;              /* 0: 1; 0.25 to 4. Changes the length, not the pitch */
    double pause;              /* seconds of silence behind a sentence; 0: 0.3; negative: none */
    int batch;   /* sentences whose tokens are made together; 0: 4, or 1 with `chunk` */
    int retries; /* times a sentence with lost or endless words is made anew; 0: 2; negative: none */
    int max_tokens;   /* per sentence, 25 a second; 0: 1500 */
    int chunk_tokens; /* with `chunk`: tokens per piece of sound, 16 at least; 0: whole sentences */
    /* Stages given by a file instead of computed, for exact runs. Safetensors files with the names
     * of the golden vectors; one file may serve several. */
    const char *phones_path; /* `phone_ids` of one sentence, transcript included, and
                                `bert_features` [1, width, phones] when there */
    const char *codes_path;  /* `prompt_tokens`: semantic codes of the reference */
    const char *tokens_path; /* `semantic_tokens`: nothing is sampled */
    const char *trace_path;  /* safetensors file that receives every named tap */
    mica_speech_fn chunk;    /* NULL: only the result */
    void *chunk_user;
    mica_progress_fn progress;
    void *progress_user;
} mica_speech_options;

typedef struct mica_speech mica_speech;

/* Speaks `text` with a voice. On failure *out is NULL and mica_session_errmsg tells why. */
MICA_API mica_status mica_speech_generate(mica_session *session, const mica_speech_options *options,
                                          mica_speech **out);
MICA_API void mica_speech_close(mica_speech **speech);
MICA_API const float *mica_speech_samples(const mica_speech *speech, size_t *count); /* mono */
MICA_API int mica_speech_rate(const mica_speech *speech); /* samples per second */

/* What may be wrong with a sentence. Without a transcript of the voice nothing is known of the last two. */
typedef enum mica_speech_doubt {
    MICA_SPEECH_TOO_SHORT = 1, /* for its text: words are missing */
    MICA_SPEECH_TOO_LONG = 2,  /* or stopped by max_tokens */
    MICA_SPEECH_LOOP = 4,      /* the same sound over and over */
    MICA_SPEECH_DROPPED = 8,   /* attention passed over part of the text */
    MICA_SPEECH_REPEATED = 16  /* attention went back and read on from there, or stood still */
} mica_speech_doubt;

/* What was spoken when. */
typedef struct mica_speech_sentence {
    size_t size;                    /* set by the caller */
    const char *text;               /* normalised, as it was read; borrowed */
    size_t first, count;            /* samples, without the silence behind */
    int tokens;                     /* semantic tokens, 25 a second */
    int retries;                    /* how often it was made anew */
    bool suspicious;                /* there are doubts even so */
    unsigned doubts;                /* mica_speech_doubt, or-ed */
    bool followed;                  /* it could be seen which phones its tokens looked at */
    const char *dropped, *repeated; /* phones that may be lost or said twice, by name; "": none */
} mica_speech_sentence;
MICA_API int mica_speech_sentence_count(const mica_speech *speech);
/* Fills what `sentence` has room for. */
MICA_API mica_status mica_speech_get_sentence(const mica_speech *speech, int index,
                                              mica_speech_sentence *sentence);
/* The parameters of the run as a JSON object; borrowed. */
MICA_API const char *mica_speech_recipe(const mica_speech *speech);
/* Remarks of the run for people, one per line: which part of a long recording was taken, say. Borrowed;
 * may be empty. */
MICA_API const char *mica_speech_notes(const mica_speech *speech);
/* Writes all of it by the extension of `path`: .wav, .flac, .ogg, and .opus and .mp3 where the linked
 * libsndfile has them (Opus at 48 kHz); 16 bits, or 32-bit floats in a .wav. The file appears whole or
 * not at all. `message` (may be NULL) receives up to message_size bytes of error text. */
MICA_API mica_status mica_speech_write(const mica_speech *speech, const char *path, bool floats,
                                       char *message, size_t message_size);
/* Hears the recordings of options->voices (the rest of the options is not read, but for codes_path and
 * progress) and writes what the session's model needs to know of them, transcript included, as a .voice
 * file: it opens at once and works with that model only. It holds a voice; treat it as the recording itself. */
MICA_API mica_status mica_voice_write(mica_session *session, const mica_speech_options *options,
                                      const char *path);
/* Remarks of opening the session (which experts the CPU computes, ...) or, once there was one, of its last
 * mica_voice_write; one per line; borrowed, may be empty. */
MICA_API const char *mica_session_notes(const mica_session *session);
/* What a .voice file says of itself. */
typedef struct mica_voice_info {
    size_t size;         /* set by the caller */
    char model_hash[17]; /* of the decoder it was made with */
    char language[16];   /* of the transcript; may be empty */
    char text[512];      /* the transcript's beginning, whole characters; may be empty */
    int codes;           /* semantic codes of the recording */
} mica_voice_info;
/* Reads them. `message` as above. */
MICA_API mica_status mica_voice_read(const char *path, mica_voice_info *info, char *message,
                                     size_t message_size);
/* For streams: the header of a 16-bit mono WAV of `count` samples (MICA_WAV_OPEN: not known yet, players of pipes
 * read on to the end; so does a length that 32 bits do not hold), and samples as it holds them (2 bytes each,
 * little-endian, clipped). */
#define MICA_WAV_HEADER_SIZE 44
#define MICA_WAV_OPEN        UINT64_MAX
MICA_API void mica_wav_header(int rate, uint64_t count, uint8_t header[MICA_WAV_HEADER_SIZE]);
MICA_API void mica_wav_samples(const float *samples, size_t count, uint8_t *bytes);

/* ------------------------------------------------------------------ text -- */

/* One turn of a conversation. role: "system", "user" or "assistant". */
typedef struct mica_message {
    const char *role, *content;
} mica_message;

/* Added to a token's logit before anything else; -100 as good as forbids it, 100 forces it. */
typedef struct mica_logit_bias {
    int32_t id;
    double bias;
} mica_logit_bias;

/* A token and the logarithm of the probability the model gave it, before any setting below. */
typedef struct mica_token_chance {
    int32_t id;
    double logprob;
    const char *text; /* its bytes as UTF-8, unfinished characters as U+FFFD; borrowed */
} mica_token_chance;

/* A token as it is written. Called in order from the thread that runs; pointers are valid during the
 * call. Return false to stop: the run ends with MICA_OK and what was written so far. */
typedef struct mica_text_token {
    int prompt;       /* which of the prompts */
    int32_t id;       /* -1: only text that had been held back */
    const char *text; /* characters that became whole with it, "" for none; what may be the
                         beginning of a stop text is held back */
    double logprob;   /* when logprobs were asked for */
    const mica_token_chance *chances; /* the likeliest, when asked for */
    int chance_count;
} mica_text_token;
typedef bool (*mica_text_fn)(void *user, const mica_text_token *token);

#define MICA_MAX_LOGPROBS 32

/* What a token is drawn from: all logits + logit_bias, less the penalties, cut by grammar, top_k, typical,
 * top_p and min_p in this order, divided by the temperature. */
typedef struct mica_text_options {
    size_t size; /* sizeof(mica_text_options) */
    /* Either texts that are continued, each for itself, or one conversation that is answered. */
    const char *const *prompts;
    int prompt_count;
    const mica_message *messages;
    int message_count;
    int max_tokens;            /* 0: until the end of the answer or of the context */
    int context;               /* tokens of prompt and answer together; 0: the model's */
    int chunk;                 /* tokens of a prompt that are read at a time; 0: 1024 */
    double temperature;        /* 0: 0.7 */
    bool greedy;               /* the likeliest token always */
    int top_k;                 /* 0: all */
    double top_p;              /* 0: 1 */
    double min_p;              /* of the likeliest token's probability; 0: off */
    double typical_p;          /* 0: 1 */
    double repetition_penalty; /* 0: 1 */
    double frequency_penalty, presence_penalty;
    int penalty_window; /* last tokens that penalties look at; 0: 64; -1: all */
    uint64_t seed;      /* prompt i draws with seed + i */
    const mica_logit_bias *logit_bias;
    int logit_bias_count;
    const char *const *stops; /* texts that end an answer and are not part of it */
    int stop_count;
    const char *grammar;     /* the answer follows it; docs/TEXT.md has the language */
    const char *json_schema; /* the same as a JSON schema; "{}": any JSON */
    bool ignore_eos;         /* the end of the answer is no token */
    bool no_bos;             /* nothing before a text that is continued */
    bool logprobs;
    int chances; /* likeliest tokens told with each; at most MICA_MAX_LOGPROBS; needs logprobs */
    const char *chat_template; /* instead of the model's */
    const char *cache_path; /* keys and values of one prompt: read when it is there and belongs to
                                  this model, written afterwards */
    const char *trace_path; /* safetensors file: `input_ids`, `hidden_states.N`, `router_logits.N`,
                                  `logits` of one prompt, which is then read in one piece */
    bool cache_q8;          /* keys and values in 8 bits: a quarter of the memory; CPU alone */
    mica_text_fn token;     /* NULL: only the result */
    void *token_user;
    mica_progress_fn progress; /* MICA_PHASE_TEXT: reading prompts; MICA_PHASE_DECODE: writing */
    void *progress_user;
} mica_text_options;

typedef enum mica_finish {
    MICA_FINISH_END = 0, /* the model ended its answer */
    MICA_FINISH_STOP,    /* a stop text */
    MICA_FINISH_LENGTH,  /* max_tokens */
    MICA_FINISH_CONTEXT, /* the context is full */
    MICA_FINISH_CALLER   /* the callback asked to stop */
} mica_finish;
MICA_API const char *mica_finish_name(mica_finish finish); /* "end", "stop", ... */

typedef struct mica_completion mica_completion;

/* Writes text. The session keeps what it has read of a single prompt: a next one that begins with the
 * same tokens goes on from there, so a conversation is given whole each time and read once. On failure
 * *out is NULL and mica_session_errmsg tells why. */
MICA_API mica_status mica_text_generate(mica_session *session, const mica_text_options *options,
                                        mica_completion **out);
MICA_API void mica_completion_close(mica_completion **completion);

/* One answer. */
typedef struct mica_text_answer {
    size_t size;      /* set by the caller */
    const char *text; /* without stop text; borrowed like all pointers here */
    mica_finish finish;
    const int32_t *prompt_ids, *ids;    /* ids: what was written, the ending token left out */
    size_t prompt_count, count, reused; /* reused: tokens of the prompt that were known already */
    const double *logprobs;             /* count of them, or NULL */
    const mica_token_chance *chances;   /* count * chance_count, likeliest first, or NULL */
    int chance_count;
} mica_text_answer;
MICA_API int mica_completion_count(const mica_completion *completion); /* answers: one a prompt */
/* Fills what `answer` has room for. */
MICA_API mica_status mica_completion_get(const mica_completion *completion, int index,
                                         mica_text_answer *answer);
typedef struct mica_text_stats {
    size_t size;                        /* set by the caller */
    double read_seconds, write_seconds; /* prompts, answers */
    size_t read_tokens, write_tokens;
    uint64_t token_bytes; /* weights that one token reads */
    uint64_t cache_bytes; /* keys and values held */
    uint64_t peak_memory;
    int cpu_expert_layers; /* layers whose experts the CPU computed beside a device */
} mica_text_stats;
/* What the run cost; fills what `stats` has room for. */
MICA_API mica_status mica_completion_stats(const mica_completion *completion,
                                           mica_text_stats *stats);

/* --------------------------------------------------------------- inspect -- */

/* Says what a path is: a model's folder or file (family, parts, tensors, dtypes, memory needed, what is
 * missing), a LoRA, a .voice file, or a picture (PNG, JPEG, WebP; its recipe). Of weights headers alone are
 * read. *out is set even on failure (NULL only when memory ran out). */
MICA_API mica_status mica_inspect(const char *path, mica_report **out);
MICA_API const char *mica_report_text(const mica_report *report); /* for people, several lines */
MICA_API const char *mica_report_json(const mica_report *report); /* one JSON object */
/* Why there is none; "" when there is. */
MICA_API const char *mica_report_errmsg(const mica_report *report);
MICA_API void mica_report_close(mica_report **report);

/* --------------------------------------------------------------- convert -- */

typedef struct mica_convert_options {
    size_t size;
    const char
        *input; /* a weight file, an index, a folder of one network, or a whole model folder */
    const char *output; /* FILE.gguf, or FILE.safetensors in MLX's layout; of a folder a folder */
    const char *type;   /* q8, q6, q5, q4, f32, f16, bf16; safetensors also fp8, int8 */
    mica_progress_fn progress;
    void *progress_user;
    const char
        *synthesizer; /* of a voice: its second checkpoint, for one file with both; may be NULL */
    uint64_t shard_bytes; /* of a folder: about the size of a file of weights; 0: 5 GB */
    bool replace;         /* a folder that is there already */
    const char *semantic; /* of a speech model's folder with several of them: the one to take */
} mica_convert_options;

/* Writes the weights in another type, tensor by tensor: a few MB of memory whatever their size. The file, or
 * the folder, appears whole or not at all. Of a whole model the networks are converted and other files
 * copied. Layers that a model is sensitive to keep more bits. *out receives what became
 * of every layer, with its relative error. MICA_E_CANCELLED when progress said so. */
MICA_API mica_status mica_convert(const mica_convert_options *options, mica_report **out);

/* ----------------------------------------------------------------- bench -- */

typedef struct mica_bench_options {
    size_t size;                                /* sizeof(mica_bench_options) */
    const mica_engine_options *engine;          /* `model` or `synthetic`; NULL: the demo model */
    int width, height;                          /* 0: 512 */
    int steps;                                  /* rounds of two steps; 0: 3 */
    int text_tokens;                            /* synthetic prompts; 0: 20 */
    bool ablate;                                /* repeat with each technique switched off */
    bool kernels;                               /* the kernel table instead of a model */
    void (*line)(void *user, const char *text); /* receives human-readable lines; may be NULL */
    void *user;
    bool caching;  /* whole runs with step caching off, balanced and
                                                   fast instead; steps 0: 20 */
    bool unguided; /* one pass a step, without guidance */
    bool profile;  /* then one more run, with the seconds of every operation */
} mica_bench_options;

/* Measures; *out receives a report whose JSON holds every figure. */
MICA_API mica_status mica_bench_run(const mica_bench_options *options, mica_report **out);

#ifdef __cplusplus
}
#endif
#endif
