/* speech_result.c - the sound and the sentences that a family's speak gives back. */
#include "models/model.h"

void mica_speech_result_deinit(mica_speech_result *result)
{
    for (int i = 0; i < result->part_count; i++) {
        mica_mem_free(result->parts[i].text);
        mica_mem_free(result->parts[i].dropped);
        mica_mem_free(result->parts[i].repeated);
    }
    mica_mem_free(result->parts);
    mica_mem_free(result->samples);
    mica_mem_free(result->notes);
    *result = (mica_speech_result){0};
}
