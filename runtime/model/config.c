/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - how a family reads a config.json. */
#include "config.h"

#include <stdint.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"
#include "reader.h"

/* ---------------------------------------------------------------------------------------------- one layer -- */

static bool is_of_shared_function(size_t member)
{
    const size_t begin = offsetof(struct moecl_reading, options.shared_function);
    return member >= begin && member < begin + sizeof(moecl_expert_function);
}

static moecl_status apply_row(const struct moecl_reader *reader, bool shared, struct moecl_reading *reading)
{
    const struct moecl_family *family = reader->family;
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < MOECL_FAMILY_SOURCES && family->sources[i].keys[0]; i++)
        if (is_of_shared_function(family->sources[i].member) == shared &&
            family->sources[i].member != offsetof(struct moecl_reading, layers))
            TRY(moecl_source_apply(reader, &family->sources[i], reading));
    if (!shared)
        TRY(moecl_sources_apply_usual(reader, reading));
    for (const struct moecl_case *item = family->cases; !moecl_case_is_end(item); item++)
        if (is_of_shared_function(item->member) == shared && item->member != offsetof(struct moecl_reading, dense))
            TRY(moecl_case_apply(reader, item, reading));
out:
    return status;
}

/* Of a dense layer nothing else is asked: it may lack all that an MoE layer needs. */
static moecl_status read_dense(const struct moecl_reader *reader, struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    for (const struct moecl_case *item = reader->family->cases; !moecl_case_is_end(item); item++)
        if (item->member == offsetof(struct moecl_reading, dense))
            TRY(moecl_case_apply(reader, item, reading));
out:
    return status;
}

/* What is written in several ways gets one: no groups, no clamp, the shared expert's width. */
static void simplify(struct moecl_reading *reading)
{
    moecl_layer_options *options = &reading->options;
    if (options->shared_intermediate == 0 &&
        reading->shared_experts <= (size_t)MOECL_LARGEST_SIZE / options->intermediate)
        options->shared_intermediate = reading->shared_experts * options->intermediate;
    if (options->shared_intermediate == 0) {
        options->shared_gate = MOECL_SHARED_GATE_NONE;
        options->shared_function = (moecl_expert_function){0};
        options->shared_scale = 0.0F;
    }
    if (options->router.groups <= 1 && options->router.score != MOECL_SCORE_HIERARCHICAL) {
        options->router.groups = options->router.top_groups = 0;
        options->router.group_score = MOECL_GROUP_SCORE_LARGEST;
        options->router.group_mask = MOECL_GROUP_MASK_INFINITE;
    }
    for (size_t i = 0; i < 2; i++) {
        moecl_expert_function *function = i == 0 ? &options->function : &options->shared_function;
        if (function->limit <= 0.0F)
            function->clamp = MOECL_CLAMP_NONE;
    }
}

static moecl_status check_layer_options(const struct moecl_reader *reader, const struct moecl_reading *reading)
{
    const moecl_layer_options *options = &reading->options;
    const moecl_router *router = &options->router;
    const size_t outputs = options->experts + router->zero_experts;
    moecl_status status = MOECL_OK;

    if (options->top_k > outputs)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu experts for each token, of %zu", reader->path, options->top_k,
             outputs);
    if (outputs > MOECL_MAX_EXPERTS || options->top_k > MOECL_MAX_TOP_K)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: %zu experts, %zu for each token: at most %d and %d are supported",
             reader->path, outputs, options->top_k, MOECL_MAX_EXPERTS, MOECL_MAX_TOP_K);
    if (router->groups > 0 &&
        (outputs % router->groups != 0 || router->top_groups < 1 || router->top_groups > router->groups))
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu of %zu groups of experts, of %zu experts", reader->path,
             router->top_groups, router->groups, outputs);
    if (reading->shared_experts > 0 && options->shared_intermediate == 0)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu shared experts of %zu", reader->path, reading->shared_experts,
             options->intermediate);
out:
    return status;
}

static moecl_status read_layer(const struct moecl_reader *reader, struct moecl_config_layer *layer)
{
    moecl_status status = MOECL_OK;
    struct moecl_reading reading = reader->family->base;

    TRY(read_dense(reader, &reading));
    layer->moe = !reading.dense;
    if (reading.dense)
        goto out;
    TRY(apply_row(reader, false, &reading));
    reading.options.shared_function = reading.options.function;
    reading.options.shared_function.biased = false;
    TRY(apply_row(reader, true, &reading));
    TRY(moecl_sources_check(reader, &reading));
    simplify(&reading);
    TRY(check_layer_options(reader, &reading));
    layer->options = reading.options;
out:
    return status;
}

/* ----------------------------------------------------------------------------------------- parts of a config -- */

/* The number of layers under any of the keys; of a list or a text, its length. */
static moecl_status read_layer_count(const struct moecl_reader *reader, size_t *layers)
{
    static const struct moecl_source usual = {.keys = {"num_hidden_layers"}};
    const struct moecl_source *source = &usual;
    moecl_status status = MOECL_OK;

    for (size_t i = 0; i < MOECL_FAMILY_SOURCES && reader->family->sources[i].keys[0]; i++)
        if (reader->family->sources[i].member == offsetof(struct moecl_reading, layers))
            source = &reader->family->sources[i];
    *layers = reader->family->base.layers;
    for (size_t i = 0; source->keys[i]; i++) {
        const json_t *value = moecl_value_at(reader->root, source->keys[i]);
        size_t number = json_is_array(value) ? json_array_size(value) : json_string_length(value);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_array(value) && !json_is_string(value))
            TRY(moecl_value_size(reader, source->keys[i], value, 1, (size_t)MOECL_MOST_LAYERS, &number));
        if (number < 1 || number > (size_t)MOECL_MOST_LAYERS || (*layers > 0 && *layers != number))
            FAIL(reader->error, MOECL_BAD_FILE, "%s: \"%s\" speaks of %zu layers, expected %zu to %zu", reader->path,
                 source->keys[i], number, *layers ? *layers : 1, *layers ? *layers : (size_t)MOECL_MOST_LAYERS);
        *layers = number;
    }
    if (*layers == 0)
        TRY(moecl_value_missing(reader, source->keys));
    if (*layers > (size_t)MOECL_MOST_LAYERS)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu layers, at most %zu are supported", reader->path, *layers,
             (size_t)MOECL_MOST_LAYERS);
out:
    return status;
}

static moecl_status unknown_family(const struct moecl_reader *reader, const char *model_type)
{
    const struct moecl_family *family;
    moecl_status status =
        moecl_error_set(reader->error, MOECL_UNKNOWN_MODEL,
                        "%s: the model_type \"%s\" is of no known family:", reader->path, QUOTE(model_type));
    for (size_t i = 0; (family = moecl_family_row(i)); i++)
        if (!family->refusal)
            status = moecl_error_append(reader->error, status, "%s %s", i == 0 ? "" : ",", family->model_types[0]);
    return status;
}

/* The family of the config's model_type, or else of its text_config's: what holds a language model of a known family
 * may itself be of none. */
static moecl_status find_family(const struct moecl_reader *reader, const json_t *config,
                                const struct moecl_family *given, struct moecl_config *read)
{
    const json_t *value = json_object_get(config, "model_type");
    const char *model_type = json_string_value(value);
    const char *inner = json_string_value(json_object_get(reader->root, "model_type"));
    moecl_status status = MOECL_OK;

    if (!model_type && !given)
        TRY(moecl_value_wrong_kind(reader, "model_type", value, "a string"));
    read->family = given ? given : moecl_family_find(model_type);
    if (!read->family && inner)
        read->family = moecl_family_find(inner);
    if (!read->family)
        return unknown_family(reader, model_type);
    if (read->family->refusal)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: models of the family %s are not supported: %s", reader->path,
             read->family->model_types[0], read->family->refusal);
    read->model_type = moecl_duplicate(model_type ? model_type : "");
    if (!read->model_type)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a name", reader->path);
out:
    return status;
}

/* What cannot be computed yet must not be computed wrongly. */
static moecl_status refuse_quantised(const struct moecl_reader *reader, const json_t *config)
{
    const json_t *quantisation = json_object_get(config, "quantization_config");
    if (!quantisation || json_is_null(quantisation))
        return MOECL_OK;
    const char *method = json_string_value(json_object_get(quantisation, "quant_method"));
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED,
                           "%s: quantised weights (\"quantization_config\", quant_method \"%s\") are not supported",
                           reader->path, method ? QUOTE(method) : "");
}

/* ---------------------------------------------------------------------------------------------- the whole of it -- */

static moecl_status read_layers(struct moecl_reader *reader, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;

    TRY(read_layer_count(reader, &config->layers));
    config->layer = moecl_allocate(config->layers, sizeof *config->layer);
    if (!config->layer)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu layers", reader->path, config->layers);
    for (reader->layer = 0; reader->layer < config->layers; reader->layer++)
        TRY(read_layer(reader, &config->layer[reader->layer]));
out:
    return status;
}

moecl_status moecl_config_read_object(struct moecl_error *error, const char *path, const json_t *root,
                                      const struct moecl_family *family, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    const json_t *inner = json_object_get(root, "text_config");
    struct moecl_reader reader = {.error = error, .path = path, .root = json_is_object(inner) ? inner : root};

    *config = (struct moecl_config){0};
    TRY(find_family(&reader, root, family, config));
    reader.family = config->family;
    TRY(refuse_quantised(&reader, root));
    TRY(refuse_quantised(&reader, reader.root));
    TRY(read_layers(&reader, config));
out:
    if (status != MOECL_OK)
        moecl_config_free(config);
    return status;
}

moecl_status moecl_config_read(struct moecl_error *error, const char *path, const char *text, size_t size,
                               const struct moecl_family *family, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    json_t *root = NULL;

    *config = (struct moecl_config){0};
    TRY(moecl_json_parse(error, path, text, size, &root));
    TRY(moecl_config_read_object(error, path, root, family, config));
out:
    json_decref(root);
    return status;
}

void moecl_config_free(struct moecl_config *config)
{
    moecl_free(config->model_type);
    moecl_free(config->layer);
    *config = (struct moecl_config){0};
}
