/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_description.c - any text as the description of a family: an error with a sentence, or a family that reads a
 * config.json the same way. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char config_text[] =
    "{\"num_hidden_layers\": 3, \"hidden_size\": 64, \"num_experts\": 8, \"num_experts_per_tok\": 2, \"n_group\": 4,"
    " \"topk_group\": 2, \"moe_intermediate_size\": 32, \"norm_topk_prob\": true, \"hidden_act\": \"silu\","
    " \"routed_scaling_factor\": 2.5, \"limits\": [0, 1.5, 2], \"mlp_layer_types\": [\"dense\", \"sparse\", \"moe\"],"
    " \"pattern\": \"M*E\", \"layers\": [0, 2], \"step\": 2, \"nothing\": null, \"zero\": 0, \"huge\": 2147483647}";

static void check_layer(const moecl_layer_options *options)
{
    const size_t outputs = options->experts + options->router.zero_experts;
    if (options->hidden < 1 || options->intermediate < 1 || options->experts < 1 || options->top_k < 1 ||
        options->top_k > outputs || options->top_k > MOECL_MAX_TOP_K || outputs > MOECL_MAX_EXPERTS ||
        options->hidden > INT32_MAX || options->intermediate > INT32_MAX || options->shared_intermediate > INT32_MAX ||
        options->latent > INT32_MAX)
        abort();
}

static void check_names(const struct moecl_family *family)
{
    char name[512];
    for (int role = 0; role < MOECL_ROLE_COUNT; role++)
        for (size_t i = 0; moecl_family_tensor_name(family, (enum moecl_role)role, 1, 7, i, name, sizeof name); i++)
            if (strlen(name) >= sizeof name)
                abort();
}

static void read_config(const struct moecl_family *family)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_config config;
    moecl_status status = moecl_config_read(&error, "c", config_text, sizeof config_text - 1, family, &config);
    if (status != MOECL_OK && error.sentence[0] == '\0')
        abort();
    for (size_t layer = 0; layer < config.layers; layer++)
        if (config.layer[layer].moe)
            check_layer(&config.layer[layer].options);
    moecl_config_free(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_family family;
    json_t *root = NULL;
    moecl_status status = moecl_json_parse(&error, "description.json", (const char *)data, size, &root);
    if (status == MOECL_OK)
        status = moecl_description_read(&error, "description.json", root, &family);
    if (status != MOECL_OK && error.sentence[0] == '\0')
        abort();
    if (status == MOECL_OK) {
        check_names(&family);
        read_config(&family);
    }
    json_decref(root);
    return 0;
}
