/* fuzz_lora.c - arbitrary bytes as a LoRA file.
 *
 *     bytes ──► open ──► facts ──► close
 *     bytes as text ──► one key
 *
 * Beyond "no crash": a refusal has a text, the counts add up, a key never grows. */
#include "nn/lora.h"
#include "nn/lora_keys.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

static void check_key(const uint8_t *data, size_t size)
{
    char text[MICA_TENSOR_NAME_MAX + 2];
    mica_lora_key key;
    const size_t n = MICA_MIN(size, sizeof text - 1);
    memcpy(text, data, n);
    text[n] = '\0';
    mica_lora_key_parse(text, &key);
    require(key.role >= MICA_LORA_UNKNOWN && key.role < MICA_LORA_ROLE_COUNT);
    require(strlen(key.target) <= strlen(text));
    require(mica_lora_role_name(key.role)[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_lora *lora = NULL;
    mica_err err = {.status = MICA_OK};
    check_key(data, size);
    const mica_status st = mica_lora_open_memory(&lora, "input", data, size, &err);
    if (st != MICA_OK) {
        require(lora == NULL && err.status == st && err.text[0] != '\0');
        return 0;
    }
    const mica_lora_facts f = mica_lora_get_facts(lora);
    require(f.targets > 0 && f.loras + f.doras + f.lohas + f.lokrs + f.diffs == f.targets);
    require(f.rank_min <= f.rank_max && f.bytes <= size);
    require(strlen(mica_lora_hash(lora)) == 16);
    mica_lora_close(&lora);
    return 0;
}
