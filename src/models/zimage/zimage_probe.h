/* zimage_probe.h - rotary tables as the reference's traces hold them. */
#ifndef MICA_MODELS_ZIMAGE_ZIMAGE_PROBE_H
#define MICA_MODELS_ZIMAGE_ZIMAGE_PROBE_H

#include "diffusion/diffusion.h"
#include "models/zimage/zimage_config.h"

/* probe.rope.image_ids, .image.cos, .image.sin and the same of the caption; nothing without taps. */
mica_status mica_zimage_probe_rope(mica_diffusion *d, const mica_zimage_config *c, mica_err *err);

#endif
