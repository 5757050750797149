/* gpt_sovits_convert.c - see gpt_sovits_convert.h. */
#include "models/gpt_sovits/gpt_sovits_convert.h"

#include "models/gpt_sovits/gpt_sovits_semantic.h"
#include "models/gpt_sovits/gpt_sovits_synthesizer.h"

#include <stdio.h>
#include <string.h>

mica_status mica_gs_convert_view(mica_weights **view, const mica_weights *files,
                                 mica_model_part part, mica_arena *arena, mica_err *err)
{
    if (part == MICA_PART_SEMANTIC)
        return mica_gs_semantic_directory(view, files, arena, err);
    if (part == MICA_PART_SYNTHESIZER)
        return mica_gs_synth_folded(view, files, arena, err);
    return mica_gs_folded(view, files, NULL, arena, err);
}

const char *mica_gs_settings_key(mica_model_part part)
{
    return part == MICA_PART_SEMANTIC      ? "semantic_config"
           : part == MICA_PART_SYNTHESIZER ? "synthesizer_config"
                                           : NULL;
}

const char *mica_gs_version_name(const mica_weights *files)
{
    const char *header = mica_weights_header(files);
    return strcmp(header, "05") == 0 ? "v2Pro" : strcmp(header, "06") == 0 ? "v2ProPlus" : NULL;
}

mica_gs_path mica_gs_settings_path(const mica_weights *files, mica_model_part part,
                                   const char *path)
{
    mica_gs_path out;
    const char *own = mica_gs_settings_key(part);
    const bool has_own = own && mica_weights_metadata(files, own);
    snprintf(out.text, sizeof out.text, "%s.%s", has_own ? own : "config", path);
    return out;
}
