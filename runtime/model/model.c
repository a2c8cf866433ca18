/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - opens a checkpoint directory, and finds what a layer consists of. */
#include "model.h"

#include <stdio.h>

#include "device/memory.h"
#include "json.h"

/* ----------------------------------------------------------------------------------------- open and describe -- */

static moecl_status read_config(struct moecl_model *model)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &model->context->error;
    struct moecl_mapping mapping = {0};
    char *path = moecl_format("%s/config.json", model->directory);

    if (!path)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a path", model->directory);
    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_config_read(error, path, mapping.data, mapping.size, &model->config));
out:
    moecl_mapping_close(&mapping);
    moecl_free(path);
    return status;
}

moecl_status moecl_model_open(moecl_context *context, const char *directory, moecl_model **model)
{
    moecl_status status = MOECL_OK;
    struct moecl_model *opened = NULL;

    if (model)
        *model = NULL;
    if (!context)
        return MOECL_INVALID_ARGUMENT;
    if (!directory || directory[0] == '\0' || !model)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_model_open: directory or model is NULL or empty");
    opened = moecl_allocate(1, sizeof *opened);
    if (!opened)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_model_open: no memory for a model");
    opened->context = context;
    opened->directory = moecl_duplicate(directory);
    if (!opened->directory)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_model_open: no memory for a path");
    TRY(read_config(opened));
    TRY(moecl_checkpoint_open(&context->error, directory, &opened->checkpoint));
    *model = opened;
    opened = NULL;
out:
    moecl_model_close(opened);
    return status;
}

void moecl_model_close(moecl_model *model)
{
    if (!model)
        return;
    moecl_checkpoint_close(&model->checkpoint);
    moecl_config_free(&model->config);
    moecl_free(model->directory);
    moecl_free(model);
}

void moecl_model_describe(const moecl_model *model, moecl_model_info *info)
{
    const struct moecl_config *config = &model->config;
    *info = (moecl_model_info){config->family->model_type, config->family->model_type, config->layers};
}

bool moecl_model_is_moe(const moecl_model *model, size_t layer)
{
    return layer < model->config.layers && model->config.moe[layer];
}

/* "the MoE layers are 1 to 3, 5, 7 to 60" */
static moecl_status append_moe_layers(const struct moecl_model *model, moecl_status status)
{
    struct moecl_error *error = &model->context->error;
    const char *separator = "the MoE layers are ";

    for (size_t first = 0; first < model->config.layers; first++) {
        size_t last = first;
        if (!moecl_model_is_moe(model, first))
            continue;
        while (moecl_model_is_moe(model, last + 1))
            last++;
        (void)moecl_error_append(error, status, "%s%zu", separator, first);
        if (last > first)
            (void)moecl_error_append(error, status, " to %zu", last);
        separator = ", ";
        first = last;
    }
    return moecl_error_append(error, status, "%s", separator[0] == ',' ? "" : "it has no MoE layers");
}

static moecl_status require_moe(const struct moecl_model *model, size_t layer)
{
    struct moecl_error *error = &model->context->error;

    if (moecl_model_is_moe(model, layer))
        return MOECL_OK;
    if (layer < model->config.layers)
        (void)moecl_error_set(error, MOECL_INVALID_ARGUMENT, "%s: layer %zu is dense: ", model->directory, layer);
    else
        (void)moecl_error_set(error, MOECL_INVALID_ARGUMENT,
                              "%s: there is no layer %zu: the model's layers are 0 to %zu; ", model->directory, layer,
                              model->config.layers - 1);
    return append_moe_layers(model, MOECL_INVALID_ARGUMENT);
}

/* ------------------------------------------------------------------------------------------------- tensors -- */

enum { NAME_SIZE = 256 };

static void format_shape(const struct moecl_tensor *tensor, char text[NAME_SIZE])
{
    int length = snprintf(text, NAME_SIZE, "[");
    for (size_t i = 0; i < tensor->rank && i < MOECL_TENSOR_DIMENSIONS; i++)
        length += snprintf(text + length, (size_t)(NAME_SIZE - length), "%s%zu", i > 0 ? ", " : "", tensor->shape[i]);
    (void)snprintf(text + length, (size_t)(NAME_SIZE - length), "%s]",
                   tensor->rank > MOECL_TENSOR_DIMENSIONS ? ", ..." : "");
}

static moecl_status find_matrix(const struct moecl_model *model, size_t layer, enum moecl_role role, size_t expert,
                                size_t rows, size_t columns, moecl_matrix *matrix)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &model->context->error;
    const struct moecl_family *family = model->config.family;
    const struct moecl_tensor *tensor = NULL;
    moecl_type type = MOECL_F32;
    char name[NAME_SIZE], shape[NAME_SIZE];

    for (size_t i = 0; !tensor && moecl_family_tensor_name(family, role, layer, expert, i, name, sizeof name); i++)
        tensor = moecl_checkpoint_find(&model->checkpoint, name);
    if (!tensor) {
        (void)moecl_family_tensor_name(family, role, layer, expert, 0, name, sizeof name);
        FAIL(error, MOECL_BAD_FILE, "%s: tensor \"%s\" is missing", model->directory, name);
    }
    if (!moecl_tensor_type(tensor, &type))
        FAIL(error, MOECL_BAD_FILE, "%s: tensor \"%s\" has the dtype \"%s\", expected F32, F16 or BF16", tensor->file,
             tensor->name, QUOTE(tensor->dtype));
    if (tensor->rank != 2 || tensor->shape[0] != rows || tensor->shape[1] != columns) {
        format_shape(tensor, shape);
        FAIL(error, MOECL_BAD_FILE, "%s: tensor \"%s\" has the shape %s, expected [%zu, %zu]", tensor->file,
             tensor->name, shape, rows, columns);
    }
    *matrix = (moecl_matrix){tensor->data, type, rows, columns, 0, 0};
out:
    return status;
}

/* `gate` is MOECL_ROLE_GATE or MOECL_ROLE_SHARED_GATE; its up and down follow. */
static moecl_status find_expert(const struct moecl_model *model, size_t layer, enum moecl_role gate, size_t expert,
                                size_t intermediate, moecl_expert_weights *weights)
{
    moecl_status status = MOECL_OK;
    size_t hidden = model->config.hidden;

    TRY(find_matrix(model, layer, gate, expert, intermediate, hidden, &weights->gate));
    TRY(find_matrix(model, layer, gate + 1, expert, intermediate, hidden, &weights->up));
    TRY(find_matrix(model, layer, gate + 2, expert, hidden, intermediate, &weights->down));
out:
    return status;
}

static bool is_gated(const struct moecl_config *config)
{
    return config->family->tensors[MOECL_ROLE_SHARED_SCALE][0] != NULL;
}

moecl_status moecl_model_weights(moecl_model *model, size_t layer, moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;
    moecl_expert_weights *experts = NULL;

    if (weights)
        *weights = (moecl_layer_weights){0};
    if (!model || !weights)
        return MOECL_INVALID_ARGUMENT;
    const struct moecl_config *config = &model->config;
    TRY(require_moe(model, layer));
    experts = moecl_allocate(config->experts, sizeof *experts);
    if (!experts)
        FAIL(&model->context->error, MOECL_OUT_OF_HOST_MEMORY, "no memory for %zu experts' matrices", config->experts);
    weights->experts = experts;
    TRY(find_matrix(model, layer, MOECL_ROLE_ROUTER, 0, config->experts, config->hidden, &weights->router));
    for (size_t expert = 0; expert < config->experts; expert++)
        TRY(find_expert(model, layer, MOECL_ROLE_GATE, expert, config->intermediate, &experts[expert]));
    if (config->shared_intermediate > 0)
        TRY(find_expert(model, layer, MOECL_ROLE_SHARED_GATE, 0, config->shared_intermediate, &weights->shared));
    if (is_gated(config))
        TRY(find_matrix(model, layer, MOECL_ROLE_SHARED_SCALE, 0, 1, config->hidden, &weights->shared_gate));
out:
    if (status != MOECL_OK)
        moecl_model_weights_free(weights);
    return status;
}

void moecl_model_weights_free(moecl_layer_weights *weights)
{
    if (!weights)
        return;
    moecl_free((void *)(uintptr_t)weights->experts);
    *weights = (moecl_layer_weights){0};
}

/* ------------------------------------------------------------------------------------------------- options -- */

static bool has_type(const moecl_expert_weights *weights, moecl_type type)
{
    return weights->gate.type == type && weights->up.type == type && weights->down.type == type;
}

/* The type of all expert matrices; f32, which holds any of them, where they differ. */
static moecl_type common_type(const moecl_layer_weights *weights)
{
    moecl_type type = weights->experts[0].gate.type;
    bool common = !weights->shared.gate.data || has_type(&weights->shared, type);
    for (size_t expert = 0; common && expert < weights->router.rows; expert++)
        common = has_type(&weights->experts[expert], type);
    return common ? type : MOECL_F32;
}

moecl_status moecl_model_layer_options(moecl_model *model, size_t layer, moecl_layer_options *options)
{
    moecl_status status = MOECL_OK;
    moecl_layer_weights weights;

    if (!model || !options)
        return MOECL_INVALID_ARGUMENT;
    const struct moecl_config *config = &model->config;
    TRY(moecl_model_weights(model, layer, &weights));
    *options = (moecl_layer_options){
        .experts = config->experts,
        .hidden = config->hidden,
        .intermediate = config->intermediate,
        .top_k = config->top_k,
        .router.normalisation = config->normalise ? MOECL_NORMALISATION_SUM : MOECL_NORMALISATION_NONE,
        .shared_intermediate = config->shared_intermediate,
        .shared_gate = is_gated(config) ? MOECL_SHARED_GATE_SIGMOID : MOECL_SHARED_GATE_NONE,
        .weights = common_type(&weights),
        .activations = MOECL_F32,
    };
    moecl_model_weights_free(&weights);
out:
    return status;
}
