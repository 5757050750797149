/* registry.c - the model families of this build, one line each. */
#include "models/model.h"
#include "models/flux2/flux2.h"
#include "models/gpt_sovits/gpt_sovits.h"
#include "models/mixtral/mixtral.h"
#include "models/qwen_image/qwen_image.h"
#include "models/zimage/zimage.h"

#include <string.h>

/* Mixtral before the others: their text encoders have names that are among its own. */
static const mica_model_kind *const KINDS[] = {
    &mica_mixtral_kind, &mica_qwen_image_kind, &mica_flux2_kind,
    &mica_zimage_kind,  &mica_gpt_sovits_kind,
};

const mica_model_kind *mica_model_kind_at(int index)
{
    return index >= 0 && index < (int)MICA_ARRAY_LEN(KINDS) ? KINDS[index] : NULL;
}

const mica_model_kind *mica_model_kind_find(const char *id)
{
    for (size_t i = 0; i < MICA_ARRAY_LEN(KINDS); i++)
        if (strcmp(KINDS[i]->id, id) == 0)
            return KINDS[i];
    return NULL;
}
