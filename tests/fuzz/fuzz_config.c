/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - any text as a config.json: an error with a sentence, or sizes that are in bounds. */
#include <stdint.h>
#include <stdlib.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layer(const moecl_layer_options *options)
{
    const size_t outputs = options->experts + options->router.zero_experts;
    if (options->hidden < 1 || options->intermediate < 1 || options->experts < 1 || options->top_k < 1 ||
        options->top_k > outputs || options->top_k > MOECL_MAX_TOP_K || outputs > MOECL_MAX_EXPERTS ||
        options->hidden > INT32_MAX || options->intermediate > INT32_MAX || options->shared_intermediate > INT32_MAX ||
        options->latent > INT32_MAX)
        abort();
    if (options->router.groups > 0 && (outputs % options->router.groups != 0 || options->router.top_groups < 1 ||
                                       options->router.top_groups > options->router.groups))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_config config;
    moecl_status status = moecl_config_read(&error, "config.json", (const char *)data, size, NULL, &config);
    if (status != MOECL_OK && error.sentence[0] == '\0')
        abort();
    if (status != MOECL_OK)
        return 0;
    if (config.layers < 1)
        abort();
    for (size_t layer = 0; layer < config.layers; layer++)
        if (config.layer[layer].moe)
            check_layer(&config.layer[layer].options);
    moecl_config_free(&config);
    return 0;
}
