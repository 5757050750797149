/* diffusion_internal.h - what the files of this folder share. */
#ifndef MICA_DIFFUSION_DIFFUSION_INTERNAL_H
#define MICA_DIFFUSION_DIFFUSION_INTERNAL_H

#include "diffusion/diffusion.h"

/* diffusion_inputs.c: reads the pictures of the options and decides what they are for. */
mica_status mica_diffusion_inputs_read(mica_diffusion *d, mica_err *err);
mica_status mica_diffusion_inputs_assign(mica_diffusion *d, mica_err *err); /* traits are known */
void mica_diffusion_inputs_deinit(mica_diffusion *d);
/* Pixels of the start picture with its new borders. */
void mica_diffusion_canvas_size(const mica_diffusion *d, int *width, int *height);

/* diffusion_plan.c */
mica_status mica_diffusion_plan_make(mica_diffusion *d, mica_err *err);

/* diffusion_latents.c: values of one picture between a form and rows. */
void mica_latents_to_rows(const mica_diffusion *d, mica_latent_form form, const float *in, int h,
                          int w, float *rows_PC);
void mica_latents_from_rows(const mica_diffusion *d, mica_latent_form form, const float *rows_PC,
                            int h, int w, float *out);
/* Rows and channels-last latents [Y, X, c]. */
void mica_latents_unpack(const mica_diffusion *d, const float *rows_PC, int h, int w, float *z_YXc);
void mica_latents_pack(const mica_diffusion *d, const float *z_YXc, int h, int w, float *rows_PC);
/* Shape of n pictures of h x w patches in a form; returns the number of dimensions. */
int mica_latents_shape(const mica_diffusion *d, mica_latent_form form, int n, int h, int w,
                       int64_t shape[5]);
/* The start noise of all pictures, from the seeds or a file: host rows. posterior_PC (may be NULL)
 * receives what the seeds give before it, zeroes with a file. */
mica_status mica_latents_draw(const mica_diffusion *d, float *posterior_PC, float *noise_PC,
                              mica_err *err);

/* diffusion_start.c: latents, noise and mask of a run that starts from a picture. */
mica_status mica_diffusion_start(mica_diffusion *d, mica_err *err);
/* After a step: what the mask protects becomes the start picture at the noise level of `step` + 1. */
void mica_diffusion_keep_masked(mica_diffusion *d, int step);
/* Pixels that the mask protects, from the start picture itself. rgb: one picture of the output. */
void mica_diffusion_restore_masked(const mica_diffusion *d, uint8_t *rgb);

/* diffusion_decode.c: latents to result->rgb. */
mica_status mica_diffusion_decode(mica_diffusion *d, mica_err *err);
/* One picture of a size that is computed, through the VAE: mean and logvar (may be NULL) channels
 * last, in the VAE's own range. Taps as mica_diffusion_encode_picture. */
mica_status mica_diffusion_encode_posterior(mica_diffusion *d, const mica_picture *picture,
                                            int index, float *mean_YXc, float *logvar_YXc,
                                            mica_err *err);

#endif
