/* diffusion.h - a run of a picture model: what all of them share, and what each supplies.
 *
 *     options ─► inputs ─► plan ─► text ─► prepare ─► denoise ─► decode ─► pictures
 *                  │        │        │        │          │          │
 *     shared:   pictures  size,      │    start noise, solver,   latents to
 *               read      steps,     │    start       guidance,  bytes
 *                         sigmas     │    picture     mask
 *     model:             describe  encode  prepare,   predict    decode
 *                                  _text   build_rope
 *
 * A model embeds mica_diffusion as the first member of its own struct, fills a table of functions
 * (mica_diffusion_ops) and calls mica_diffusion_run. It never draws noise, never loops over steps
 * and never turns floats into bytes; this folder names no tensor of any model.
 *
 * Latents are rows [pictures * P, C] in f32 from the first noise to the VAE: one row a patch, P
 * patches in a picture of h x w patches, C = channels * patch * patch numbers in a row.
 *
 * Reference: diffusers pipelines/{qwenimage,flux2,z_image}, __call__ of each. */
#ifndef MICA_DIFFUSION_DIFFUSION_H
#define MICA_DIFFUSION_DIFFUSION_H

#include "base/arena.h"
#include "diffusion/block_cache.h"
#include "diffusion/step_cache.h"
#include "media/picture.h"
#include "nn/run.h"
#include "nn/vae_table.h"
#include "sample/schedule.h"
#include "sample/solver.h"

/* Technique switches of mica_engine_options; false means the technique is on. */
typedef struct mica_diffusion_switches {
    bool ablate_rope_once;
    bool ablate_modulation_once;
    bool ablate_batched_cfg;
    bool ablate_trim;
} mica_diffusion_switches;

/* What a run gives: pictures and what they cost. */
typedef struct mica_diffusion_result {
    int count, width, height;
    int channels;  /* 3, or 4 with transparency */
    bool one_seed; /* the pictures are layers of one: all come from the first seed */
    uint8_t *rgb;  /* count * height * width * channels, mica_mem_free */
    /* The run as it was resolved, for the recipe. */
    int steps;       /* asked for; `strength` runs the last part of them */
    double guidance; /* the model's neutral one when guidance was off */
    bool guided;
    mica_solver solver;
    double strength; /* 0: no start picture */
    /* What it cost. */
    double seconds[MICA_PHASE_COUNT];
    uint64_t block_allocations, block_waits, step_waits, rope_builds, modulation_matmuls;
    uint64_t prompt_cache_hits, skipped_evaluations;
    int passes; /* network evaluations; a guided pair in one batch counts once */
} mica_diffusion_result;
void mica_diffusion_result_deinit(mica_diffusion_result *r);

/* How latents stand in a file or in a seed's stream of numbers. N pictures, h x w patches,
 * Y x X = patch * (h x w) latents of c channels. */
typedef enum mica_latent_form {
    MICA_LATENT_ROWS = 0, /* [N, h * w, C] */
    MICA_LATENT_PATCHES,  /* [N, C, h, w] */
    MICA_LATENT_PIXELS,   /* [N, c, Y, X] */
    MICA_LATENT_FRAMES,   /* [N, c, 1, Y, X] */
    MICA_LATENT_ITEMS     /* [c, 1, Y, X] for one picture, FRAMES for more */
} mica_latent_form;

/* Where latent (c, dy, dx) of a patch stands in its row. */
typedef enum mica_latent_packing {
    MICA_PACK_CHANNELS_OUTER = 0, /* (c * patch + dy) * patch + dx */
    MICA_PACK_CHANNELS_INNER      /* (dy * patch + dx) * channels + c */
} mica_latent_packing;

/* Options that only some models have; others give a notice. */
enum {
    MICA_KNOWS_DISTILLED = 1,
    MICA_KNOWS_CFG_LIMITS = 2,
    MICA_KNOWS_VISION_PIXELS = 4,
    MICA_KNOWS_EDIT = 8,
    MICA_KNOWS_LAYERS = 16
};

/* Facts of a model; those that are not zero by nature must be set by `describe`. */
typedef struct mica_diffusion_traits {
    int picture_channels; /* of the VAE's pictures; 0 means 3, 4 has transparency */
    /* Above 0: what is made are so many layers of a reference. Then the plan's pictures are their
     * composite, which is not decoded, and the layers; one seed gives the noise of all of them, and
     * files have their rows behind each other. No batch, no start picture. */
    int layers;
    int scale;    /* pixels per latent and side: 8 */
    int patch;    /* latents per patch and side: 2 */
    int channels; /* of a latent */
    mica_latent_packing packing;
    mica_latent_form drawn;    /* order in which a seed's noise is drawn; PATCHES or PIXELS */
    mica_latent_form initial;  /* `initial_latents` in traces and noise files */
    mica_latent_form latents;  /* `stepN.latents` */
    mica_latent_form velocity; /* `stepN.cond` */
    mica_latent_form vae;      /* `vae_decode.input`; PIXELS or FRAMES */
    bool clamps;               /* the VAE's decoder ends with a clamp to [-1, 1] */
    bool samples_posterior; /* a start picture's latents are drawn from the VAE's posterior, before
                                  the noise and from the same seed; otherwise its mean */
    int default_width, default_height; /* pixels */
    int default_steps;
    double default_guidance;
    double neutral_guidance; /* the scale that is none: 1, or 0 for cond + scale (cond - uncond) */
    double default_strength; /* of a start picture without a mask */
    const char *default_negative; /* with guidance and no negative prompt; NULL: then no guidance */
    bool times_per_item;          /* traces hold a time for prompt and negative prompt each */
    bool ignores_guidance;        /* distilled: one pass per step whatever is asked */
    int default_tokens, max_tokens; /* of a prompt */
    int max_references;             /* pictures the prompt may refer to; 0: none */
    bool refers_to_start;           /* a start picture is the first reference too */
    mica_caching_method caching;    /* by which step caching goes unless told otherwise */
    unsigned knows;                 /* MICA_KNOWS_* */
    const mica_schedule_config *schedule;
} mica_diffusion_traits;

/* The request made definite: every default filled in, every limit checked. */
typedef struct mica_diffusion_plan {
    int width, height;         /* pixels that are computed: multiples of scale * patch */
    int out_width, out_height; /* pixels that are given back: the upper left part of them */
    int h, w;                  /* patches */
    int64_t P, C;
    int pictures;
    int hidden; /* pictures before the first that is decoded */
    int steps_asked;
    double guidance; /* neutral: off */
    bool guided;
    const char *negative; /* when guided */
    int max_tokens;
    double strength; /* 0: no start picture */
    mica_solver solver;
    int steps;        /* that run: steps_asked, or the last part of them */
    float *sigmas;    /* steps + 1 */
    float *timesteps; /* steps, 0..1000: for the trace */
    int evaluations;
    float *eval_times; /* what the network gets at each evaluation */
} mica_diffusion_plan;

/* Text features of one prompt. */
typedef struct mica_diffusion_text {
    mica_tensor embeds_TE; /* session pool */
    int64_t valid;         /* rows from here on are padding that no query may look at */
} mica_diffusion_text;

typedef struct mica_diffusion_ops mica_diffusion_ops;

typedef struct mica_diffusion {
    const mica_diffusion_ops *ops;
    mica_backend *be;
    const mica_diffusion_switches *switches;
    const mica_image_options *options;
    mica_diffusion_result *result;
    mica_arena arena; /* host arrays of this run */
    mica_run run;
    mica_diffusion_traits traits;
    mica_diffusion_plan plan;
    /* Pictures the user gave, RGB; RGBA where the VAE's pictures have transparency. */
    mica_picture *inputs;
    int input_count;
    mica_picture mask;                /* pixels NULL: none; RGB */
    mica_picture canvas, canvas_mask; /* both at the size that is computed; pixels NULL: none */
    bool from_picture;                /* inputs[0] is where denoising starts */
    const mica_picture *references;   /* what the prompt refers to, or NULL */
    int reference_count;
    /* Session pool. */
    mica_diffusion_text text[2];    /* of prompt and negative prompt */
    mica_tensor latents_PC;         /* [pictures * P, C] f32 */
    mica_tensor velocity_PC;        /* the same per condition */
    mica_tensor noise_PC, start_PC; /* with a start picture */
    mica_tensor mask_PC, keep_PC;   /* with a mask: 1 where it repaints, 1 where it does not */
    mica_tensor kept_PC;            /* scratch for what it keeps */
    mica_pool_mark rope_mark;
    mica_solver_state solver;
    mica_step_cache step_cache;
    mica_block_cache block_cache[2]; /* by first condition of a pass */
    bool caches_blocks;              /* by the first block, else by the output */
    uint64_t replay_keys[3];         /* of passes over conditions 0, both, 1; 0: none yet */
    /* Counters of mica_run_stats; models add to all but `passes`. */
    uint64_t block_allocations, block_waits, rope_builds, modulation_matmuls;
    uint64_t prompt_cache_hits;
    uint64_t step_waits; /* of the host in the loop, from its second step on */
    int passes, first_step;
} mica_diffusion;

/* What a model supplies. `d` is the first member of its own struct. */
struct mica_diffusion_ops {
    /* Facts, from the configuration and the options; inputs have been read. */
    mica_status (*describe)(mica_diffusion *d, mica_diffusion_traits *t, mica_err *err);
    /* mu of the schedule. NULL: mica_schedule_mu of P. */
    double (*mu)(const mica_diffusion *d);
    /* Unshifted sigmas of a run without --sigmas. NULL: mica_schedule_run's own. */
    void (*unshifted)(int steps, double *own);
    /* What the network gets for a timestep of 0..1000. NULL: timestep / 1000. */
    float (*time)(float timestep);
    /* Bytes of scratch for `items` (pictures times conditions) of a size. */
    uint64_t (*scratch)(const mica_diffusion *d, int width, int height, int items);
    /* Fills d->text for the prompt, and the negative prompt when the plan is guided. */
    mica_status (*encode_text)(mica_diffusion *d, mica_err *err);
    /* Everything that no step changes; latents are there. Then `build_rope`, again before each
     * evaluation when that technique is off; it allocates from the session pool alone. */
    mica_status (*prepare)(mica_diffusion *d, mica_err *err);
    mica_status (*build_rope)(mica_diffusion *d, mica_err *err);
    /* Rows and width of the hidden state that goes through the blocks of a pass over `count`
     * conditions, for caching by the first block; NULL: the model has none. */
    int64_t (*hidden)(const mica_diffusion *d, int count, int64_t *width);
    /* Before evaluation e: what depends on it goes to where every pass reads it, so that passes are
     * alike (mica_replay). NULL: they are not. */
    mica_status (*begin)(mica_diffusion *d, int e, mica_err *err);
    /* One pass over d->latents_PC for conditions [first, first + count) (0 prompt, 1 negative
     * prompt): the network's output, [count * pictures * P, C]. From evaluation 1 on it adds to
     * block_allocations and block_waits. */
    mica_status (*predict)(mica_diffusion *d, int e, int first, int count, mica_tensor *velocity_PC,
                           mica_err *err);
    /* Guidance scale of evaluation e; neutral: one pass. NULL: the plan's. */
    double (*guidance)(const mica_diffusion *d, int e);
    /* Outputs to the velocity dx/dsigma, in place in cond. uncond NULL: no guidance here. NULL:
     * uncond + scale * (cond - uncond). */
    void (*guide)(mica_diffusion *d, double scale, mica_tensor *cond_PC,
                  const mica_tensor *uncond_PC);
    /* One picture between the VAE's latents [Y, X, c] and pixels [8Y, 8X, 3 or 4] in [-1, 1], all f32
     * state. With mica_diffusion_vae_args. taps may be NULL. logvar is not clamped.
     * encode NULL: the VAE cannot. */
    mica_status (*decode)(mica_diffusion *d, const mica_tensor *z_YXC, mica_tensor *picture_YXC,
                          const mica_tap_sink *taps, mica_err *err);
    mica_status (*encode)(mica_diffusion *d, const mica_tensor *picture_YXC, mica_tensor *mean_YXC,
                          mica_tensor *logvar_YXC, const mica_tap_sink *taps, mica_err *err);
    /* Rows [n, C] on the host between the network's range and the VAE's, in place. */
    void (*scale_latents)(const mica_diffusion *d, float *rows_PC, int64_t n, bool to_vae);
    /* The phase is over: its weights may go. Not called when that technique is off. */
    void (*drop)(mica_diffusion *d, mica_phase phase);
};

/* Runs everything. *d holds zeroes but for the model's own members. On failure *result is empty
 * and the backend is clean for the next run. taps may be NULL. */
mica_status mica_diffusion_run(mica_diffusion *d, const mica_diffusion_ops *ops, mica_backend *be,
                               const mica_diffusion_switches *switches,
                               const mica_image_options *options, const mica_tap_sink *taps,
                               mica_diffusion_result *result, mica_err *err);

/* ------------------------------------------------------------ for models' hooks -- */

/* For the blocks of a pass from condition `first` on; NULL: not asked for. */
mica_block_cache *mica_diffusion_block_cache(mica_diffusion *d, int first);
/* What a VAE is told by `decode` and `encode`: the tile of the options, progress of the run. */
mica_vae_run_args mica_diffusion_vae_args(mica_diffusion *d, const mica_tap_sink *taps);
/* `x_PC`: rows of all pictures, written to the trace in `form`. */
void mica_diffusion_tap(mica_diffusion *d, const mica_tensor *x_PC, mica_latent_form form,
                        const char *name_format, ...) MICA_PRINTF(4, 5);
/* The picture resized (Lanczos, as the reference's image processor does) to width x height, which
 * are multiples of scale * patch, through the VAE: rows_PC on the host, [patches, C], the mean of
 * the posterior in the network's range. Taps vae_encode.<index>.input and .mean. */
mica_status mica_diffusion_encode_picture(mica_diffusion *d, const mica_picture *picture, int width,
                                          int height, int index, float *rows_PC, mica_err *err);
/* "the prompt is cut ..." when more tokens were given than the plan allows. */
void mica_diffusion_note_cut(mica_diffusion *d, int prompt, int64_t given, int64_t kept);

#endif
