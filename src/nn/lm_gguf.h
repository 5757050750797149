/* lm_gguf.h - language models in GGUF files: their tensors under the names that the rest of Mica knows,
 * their sizes from the metadata. */
#ifndef MICA_NN_LM_GGUF_H
#define MICA_NN_LM_GGUF_H

#include "nn/decoder_lm.h"

/* mica_weights_open; a GGUF file of a Qwen2, Qwen2-VL or Qwen3 model (general.architecture) gets its tensors
 * named as in their safetensors release ("blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj.weight").
 * Other files are left as they are. */
mica_status mica_lm_weights_open(mica_weights **out, const char *path, mica_err *err);

/* The way back: llama.cpp's name of a tensor; false: it has none. */
bool mica_lm_gguf_name(const char *name, char *out, size_t cap);

/* What the metadata of such a file say goes over what is in *c; nothing happens for other files. */
mica_status mica_lm_gguf_config(mica_lm_config *c, const mica_weights *w, mica_err *err);

#endif
