/* fuzz_vae_config.c - arbitrary bytes as the config.json of a KL autoencoder.
 *
 * Beyond "no crash": a refusal has a text; sizes that were accepted are within the limits of the tables
 * and divide into the norms' groups, so that a table can be made of them. */
#include "nn/kl_vae.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mica_kl_vae_config c;
    mica_err err = {.status = MICA_OK};
    if (mica_kl_vae_config_parse(&c, "input", (const char *)data, size, &err) != MICA_OK) {
        require(err.text[0] != '\0');
        return 0;
    }
    require(c.levels >= 1 && c.levels <= MICA_KL_VAE_MAX_LEVELS && c.groups >= 1);
    require(c.z_dim >= 1 && c.z_dim <= MICA_KL_VAE_MAX_Z && c.scaling_factor > 0.0);
    for (int l = 0; l < c.levels; l++)
        require(c.encoder_dim_[l] >= 1 && c.encoder_dim_[l] % c.groups == 0 &&
                c.decoder_dim_[l] >= 1 && c.decoder_dim_[l] % c.groups == 0);
    /* A file without any tensor is told so, whatever the sizes. */
    mica_weights *w = NULL;
    mica_kl_vae *vae = NULL;
    if (mica_weights_open_empty(&w, &err) == MICA_OK) {
        require(mica_kl_vae_open(&vae, &c, w, &err) != MICA_OK && vae == NULL);
        require(err.text[0] != '\0');
        mica_weights_close(&w);
    }
    require(mica_kl_vae_decode_bytes(&c, 3, 2) > 0);
    return 0;
}
