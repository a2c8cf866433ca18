/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_config.c - any text as a config.json: an error with a sentence, or sizes that are in bounds. */
#include <stdint.h>
#include <stdlib.h>

#include "model/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_config config;
    moecl_status status = moecl_config_read(&error, "config.json", (const char *)data, size, &config);
    if (status != MOECL_OK && error.sentence[0] == '\0')
        abort();
    if (status != MOECL_OK)
        return 0;
    if (config.layers < 1 || config.hidden < 1 || config.intermediate < 1 || config.top_k < 1 ||
        config.top_k > config.experts || config.top_k > MOECL_MAX_TOP_K || config.experts > MOECL_MAX_EXPERTS)
        abort();
    for (size_t layer = 0; layer < config.layers; layer++)
        if (config.moe[layer] != true && config.moe[layer] != false)
            abort();
    moecl_config_free(&config);
    return 0;
}
