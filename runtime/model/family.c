/* SPDX-License-Identifier: Apache-2.0 */
/* family.c - the table of model families, and how a row reads a config.json. */
#include "family.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"

#define QWEN_EXPERTS                                                                                                   \
    [MOECL_ROLE_ROUTER] = {"mlp.gate.weight"}, [MOECL_ROLE_GATE] = {"mlp.experts.#.gate_proj.weight"},                 \
    [MOECL_ROLE_UP] = {"mlp.experts.#.up_proj.weight"}, [MOECL_ROLE_DOWN] = {"mlp.experts.#.down_proj.weight"}

static const struct moecl_family families[] = {
    {
        .model_type = "mixtral",
        .experts = {"num_local_experts", "num_experts"},
        .intermediate = {"intermediate_size"},
        .normalise_default = true,
        .tensors = {[MOECL_ROLE_ROUTER] = {"block_sparse_moe.gate.weight"},
                    [MOECL_ROLE_GATE] = {"block_sparse_moe.experts.#.w1.weight"},
                    [MOECL_ROLE_UP] = {"block_sparse_moe.experts.#.w3.weight"},
                    [MOECL_ROLE_DOWN] = {"block_sparse_moe.experts.#.w2.weight"}},
    },
    {
        .model_type = "qwen2_moe",
        .experts = {"num_experts", "num_local_experts"},
        .intermediate = {"moe_intermediate_size"},
        .shared_intermediate = {"shared_expert_intermediate_size"},
        .normalise = {"norm_topk_prob"},
        .dense_layers = {"mlp_only_layers"},
        .sparse_step = {"decoder_sparse_step"},
        .tensors = {QWEN_EXPERTS, [MOECL_ROLE_SHARED_GATE] = {"mlp.shared_expert.gate_proj.weight"},
                    [MOECL_ROLE_SHARED_UP] = {"mlp.shared_expert.up_proj.weight"},
                    [MOECL_ROLE_SHARED_DOWN] = {"mlp.shared_expert.down_proj.weight"},
                    [MOECL_ROLE_SHARED_SCALE] = {"mlp.shared_expert_gate.weight"}},
    },
    {
        .model_type = "qwen3_moe",
        .experts = {"num_experts", "num_local_experts"},
        .intermediate = {"moe_intermediate_size"},
        .normalise = {"norm_topk_prob"},
        .dense_layers = {"mlp_only_layers"},
        .sparse_step = {"decoder_sparse_step"},
        .tensors = {QWEN_EXPERTS},
    },
    {
        .model_type = "olmoe",
        .experts = {"num_experts", "num_local_experts"},
        .intermediate = {"intermediate_size"},
        .normalise = {"norm_topk_prob"},
        .tensors = {QWEN_EXPERTS},
    },
};
enum { FAMILIES = sizeof families / sizeof families[0] };

/* What all families spell alike. A row gets a member for one of these when it comes to differ. */
static const moecl_spellings layers_key = {"num_hidden_layers"};
static const moecl_spellings hidden_key = {"hidden_size"};
static const moecl_spellings top_k_key = {"num_experts_per_tok"};
static const char activation_key[] = "hidden_act"; /* SiLU where absent */
static const char *const activations[] = {"silu", "swish"};
static const char *const layer_prefixes[] = {"model.layers.", "layers."};

/* Bounds for what no model has: they keep loops over layers and products of sizes harmless. */
static const size_t most_layers = 65536;
static const size_t largest_size = INT32_MAX;

/* -------------------------------------------------------------------------------------------- tensor names -- */

bool moecl_family_tensor_name(const struct moecl_family *family, enum moecl_role role, size_t layer, size_t expert,
                              size_t attempt, char *name, size_t size)
{
    enum { PREFIXES = sizeof layer_prefixes / sizeof layer_prefixes[0] };
    if (attempt / PREFIXES >= MOECL_SPELLINGS || !family->tensors[role][attempt / PREFIXES])
        return false;
    const char *prefix = layer_prefixes[attempt % PREFIXES];
    const char *pattern = family->tensors[role][attempt / PREFIXES];
    const char *number = strchr(pattern, '#');
    if (!number)
        (void)snprintf(name, size, "%s%zu.%s", prefix, layer, pattern);
    else
        (void)snprintf(name, size, "%s%zu.%.*s%zu%s", prefix, layer, (int)(number - pattern), pattern, expert,
                       number + 1);
    return true;
}

/* ------------------------------------------------------------------------------------------ keys and values -- */

struct reader {
    struct moecl_error *error;
    const char *path;
    const json_t *root;
};

static moecl_status wrong_kind(const struct reader *reader, const char *key, const json_t *value, const char *expected)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is %s, expected %s", reader->path, key,
                           moecl_json_kind(value), expected);
}

/* The value under any spelling of a key, with the spelling in use; NULL where there is none. null counts as absent, and
 * two spellings that disagree are an error. */
static moecl_status find_value(const struct reader *reader, const moecl_spellings keys, const char **key,
                               const json_t **value)
{
    *key = keys[0];
    *value = NULL;
    for (size_t i = 0; i < MOECL_SPELLINGS && keys[i]; i++) {
        const json_t *found = json_object_get(reader->root, keys[i]);
        if (!found || json_is_null(found))
            continue;
        if (*value && !json_equal(*value, found))
            return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" and \"%s\" mean the same and differ",
                                   reader->path, *key, keys[i]);
        *key = keys[i];
        *value = found;
    }
    return MOECL_OK;
}

static moecl_status check_size(const struct reader *reader, const char *key, const json_t *value, size_t maximum,
                               size_t *size)
{
    if (!json_is_integer(value))
        return wrong_kind(reader, key, value, "an integer");
    json_int_t number = json_integer_value(value);
    if (number < 1 || (uintmax_t)number > maximum)
        return moecl_error_set(reader->error, MOECL_BAD_FILE,
                               "%s: \"%s\" is %" JSON_INTEGER_FORMAT ", expected 1 to %zu", reader->path, key, number,
                               maximum);
    *size = (size_t)number;
    return MOECL_OK;
}

/* A size that must be there: a guess would be worse than an error. */
static moecl_status read_size(const struct reader *reader, const moecl_spellings keys, size_t maximum, size_t *size)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;

    TRY(find_value(reader, keys, &key, &value));
    if (!value)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is missing%s%s%s", reader->path, keys[0],
             keys[1] ? " (also spelled \"" : "", keys[1] ? keys[1] : "", keys[1] ? "\")" : "");
    TRY(check_size(reader, key, value, maximum, size));
out:
    return status;
}

static moecl_status read_flag(const struct reader *reader, const moecl_spellings keys, bool otherwise, bool *flag)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;

    TRY(find_value(reader, keys, &key, &value));
    if (value && !json_is_boolean(value))
        TRY(wrong_kind(reader, key, value, "a boolean"));
    *flag = value ? json_is_true(value) : otherwise;
out:
    return status;
}

/* ----------------------------------------------------------------------------------------- parts of a config -- */

static moecl_status find_family(const struct reader *reader, const struct moecl_family **family)
{
    const json_t *value = json_object_get(reader->root, "model_type");
    const char *model_type = json_string_value(value);

    if (!model_type)
        return wrong_kind(reader, "model_type", value, "a string");
    for (size_t i = 0; i < FAMILIES; i++) {
        *family = &families[i];
        if (strcmp(model_type, families[i].model_type) == 0)
            return MOECL_OK;
    }
    moecl_status status =
        moecl_error_set(reader->error, MOECL_UNKNOWN_MODEL,
                        "%s: the model_type \"%s\" is of no known family:", reader->path, QUOTE(model_type));
    for (size_t i = 0; i < FAMILIES; i++)
        status = moecl_error_append(reader->error, status, "%s %s", i == 0 ? "" : ",", families[i].model_type);
    return status;
}

/* What the layer cannot compute yet must not be computed wrongly. */
static moecl_status refuse_unsupported(const struct reader *reader)
{
    const json_t *activation = json_object_get(reader->root, activation_key);
    const json_t *quantisation = json_object_get(reader->root, "quantization_config");

    if (quantisation && !json_is_null(quantisation)) {
        const char *method = json_string_value(json_object_get(quantisation, "quant_method"));
        return moecl_error_set(reader->error, MOECL_UNSUPPORTED,
                               "%s: quantised weights (\"quantization_config\", quant_method \"%s\") are not supported",
                               reader->path, method ? QUOTE(method) : "");
    }
    if (!activation || json_is_null(activation))
        return MOECL_OK;
    const char *name = json_string_value(activation);
    if (!name)
        return wrong_kind(reader, activation_key, activation, "a string");
    for (size_t i = 0; i < sizeof activations / sizeof activations[0]; i++)
        if (strcmp(name, activations[i]) == 0)
            return MOECL_OK;
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED,
                           "%s: the activation \"%s\" (\"%s\") is not supported: only \"%s\" is", reader->path,
                           QUOTE(name), activation_key, activations[0]);
}

static moecl_status read_sizes(const struct reader *reader, const struct moecl_family *family,
                               struct moecl_config *config)
{
    moecl_status status = MOECL_OK;

    TRY(read_size(reader, layers_key, most_layers, &config->layers));
    TRY(read_size(reader, hidden_key, largest_size, &config->hidden));
    TRY(read_size(reader, family->experts, largest_size, &config->experts));
    TRY(read_size(reader, top_k_key, largest_size, &config->top_k));
    TRY(read_size(reader, family->intermediate, largest_size, &config->intermediate));
    if (family->shared_intermediate[0])
        TRY(read_size(reader, family->shared_intermediate, largest_size, &config->shared_intermediate));
    if (config->top_k > config->experts)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu experts for each token, of %zu", reader->path, config->top_k,
             config->experts);
    if (config->experts > MOECL_MAX_EXPERTS || config->top_k > MOECL_MAX_TOP_K)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: %zu experts, %zu for each token: at most %d and %d are supported",
             reader->path, config->experts, config->top_k, MOECL_MAX_EXPERTS, MOECL_MAX_TOP_K);
out:
    return status;
}

static moecl_status read_moe_layers(const struct reader *reader, const struct moecl_family *family,
                                    struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value, *entry;
    size_t i, step = 1;

    config->moe = moecl_allocate(config->layers, sizeof *config->moe);
    if (!config->moe)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu layers", reader->path, config->layers);
    TRY(find_value(reader, family->sparse_step, &key, &value));
    if (value)
        TRY(check_size(reader, key, value, largest_size, &step));
    for (i = 0; i < config->layers; i++)
        config->moe[i] = (i + 1) % step == 0;

    TRY(find_value(reader, family->dense_layers, &key, &value));
    if (value && !json_is_array(value))
        TRY(wrong_kind(reader, key, value, "an array"));
    json_array_foreach(value, i, entry)
    {
        json_int_t layer = json_integer_value(entry);
        if (!json_is_integer(entry) || layer < 0)
            FAIL(reader->error, MOECL_BAD_FILE, "%s: entry %zu of \"%s\" is no layer's number", reader->path, i, key);
        if ((uintmax_t)layer < config->layers)
            config->moe[layer] = false;
    }
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------- the whole of it -- */

moecl_status moecl_config_read(struct moecl_error *error, const char *path, const char *text, size_t size,
                               struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    json_t *root = NULL;

    *config = (struct moecl_config){0};
    TRY(moecl_json_parse(error, path, text, size, &root));
    const struct reader reader = {error, path, root};
    TRY(find_family(&reader, &config->family));
    TRY(refuse_unsupported(&reader));
    TRY(read_sizes(&reader, config->family, config));
    TRY(read_flag(&reader, config->family->normalise, config->family->normalise_default, &config->normalise));
    TRY(read_moe_layers(&reader, config->family, config));
out:
    json_decref(root);
    if (status != MOECL_OK)
        moecl_config_free(config);
    return status;
}

void moecl_config_free(struct moecl_config *config)
{
    moecl_free(config->moe);
    *config = (struct moecl_config){0};
}
