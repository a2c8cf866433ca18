/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - opens a checkpoint, and finds what a layer consists of. */
#include "model.h"

#include <stdint.h>
#include <sys/stat.h>

#include "device/memory.h"
#include "gguf_family.h"
#include "json.h"
#include "tensors.h"

/* ----------------------------------------------------------------------------------------- open and describe -- */

static moecl_status read_family(struct moecl_model *model, const char *path)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &model->context->error;
    struct moecl_mapping mapping = {0};

    model->family = moecl_allocate(1, sizeof *model->family);
    if (!model->family)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a family", path);
    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_json_parse(error, path, mapping.data, mapping.size, &model->description));
    TRY(moecl_description_read(error, path, model->description, model->family));
out:
    moecl_mapping_close(&mapping);
    return status;
}

static moecl_status read_config(struct moecl_model *model)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &model->context->error;
    struct moecl_mapping mapping = {0};
    char *path = moecl_format("%s/config.json", model->directory);

    if (!path)
        FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a path", model->directory);
    TRY(moecl_mapping_open(error, path, &mapping));
    TRY(moecl_config_read(error, path, mapping.data, mapping.size, model->family, &model->config));
out:
    moecl_mapping_close(&mapping);
    moecl_free(path);
    return status;
}

/* A directory: its config and its tensors. */
static moecl_status open_directory(struct moecl_model *model)
{
    moecl_status status = MOECL_OK;
    TRY(read_config(model));
    TRY(moecl_checkpoint_open(&model->context->error, model->directory, &model->checkpoint));
out:
    return status;
}

static moecl_status unknown_architecture(struct moecl_error *error, const char *path, const char *name)
{
    const char *known;
    moecl_status status =
        moecl_error_set(error, MOECL_UNKNOWN_MODEL, "%s: the architecture \"%s\" is none of those known:", path, name);
    for (size_t i = 0; (known = moecl_gguf_architecture(i)); i++)
        status = moecl_error_append(error, status, "%s %s", i == 0 ? "" : ",", known);
    return status;
}

/* A GGUF file has both. */
static moecl_status open_gguf(struct moecl_model *model)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &model->context->error;
    const char *path = model->directory;
    json_t *pairs = NULL, *config = NULL;

    TRY(moecl_checkpoint_open_gguf(error, path, &model->checkpoint, &pairs));
    TRY(moecl_gguf_config(error, path, pairs, &model->checkpoint, &config));
    if (!model->family) {
        const char *name = json_string_value(json_object_get(config, "model_type"));
        model->family = moecl_allocate(1, sizeof *model->family);
        if (!model->family)
            FAIL(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a family", path);
        if (!moecl_gguf_family(name, model->family))
            TRY(unknown_architecture(error, path, QUOTE(name)));
    }
    TRY(moecl_config_read_object(error, path, config, model->family, &model->config));
out:
    json_decref(pairs);
    json_decref(config);
    return status;
}

static bool is_file(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISREG(file.st_mode);
}

moecl_status moecl_model_open(moecl_context *context, const char *directory, const char *family, moecl_model **model)
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
    if (family)
        TRY(read_family(opened, family));
    if (is_file(directory))
        TRY(open_gguf(opened));
    else
        TRY(open_directory(opened));
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
    json_decref(model->description);
    moecl_free(model->family);
    moecl_free(model->directory);
    moecl_free(model);
}

void moecl_model_describe(const moecl_model *model, moecl_model_info *info)
{
    const struct moecl_config *config = &model->config;
    *info = (moecl_model_info){config->model_type, config->family->model_types[0], config->layers};
}

bool moecl_model_is_moe(const moecl_model *model, size_t layer)
{
    return layer < model->config.layers && model->config.layer[layer].moe;
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

/* ------------------------------------------------------------------------------------- weights and options -- */

moecl_status moecl_model_find_weights(const struct moecl_model *model, size_t layer, moecl_layer_options *options,
                                      moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;

    *weights = (moecl_layer_weights){.experts = NULL};
    TRY(require_moe(model, layer));
    *options = model->config.layer[layer].options;
    TRY(moecl_tensors_find(&model->context->error, model->directory, &model->checkpoint, model->config.family, layer,
                           options, weights));
out:
    if (status != MOECL_OK)
        moecl_model_weights_free(weights);
    return status;
}

moecl_status moecl_model_weights(moecl_model *model, size_t layer, moecl_layer_weights *weights)
{
    moecl_layer_options options;

    if (weights)
        *weights = (moecl_layer_weights){.experts = NULL};
    if (!model || !weights)
        return MOECL_INVALID_ARGUMENT;
    return moecl_model_find_weights(model, layer, &options, weights);
}

void moecl_model_weights_free(moecl_layer_weights *weights)
{
    if (!weights)
        return;
    moecl_free((void *)(uintptr_t)weights->experts);
    moecl_free((void *)(uintptr_t)weights->table);
    *weights = (moecl_layer_weights){.experts = NULL};
}

static bool has_type(const moecl_matrix *matrix, moecl_type type)
{
    return !matrix->data || matrix->type == type;
}

static bool expert_has_type(const moecl_expert_weights *weights, moecl_type type)
{
    return has_type(&weights->gate, type) && has_type(&weights->up, type) && has_type(&weights->down, type);
}

/* The type of all matrices of experts; f32, which holds any of them, where they differ. */
static moecl_type common_type(const moecl_layer_weights *weights, size_t experts)
{
    const moecl_type type = weights->experts[0].up.type;
    bool common = expert_has_type(&weights->shared, type) && has_type(&weights->latent_down, type) &&
                  has_type(&weights->latent_up, type);
    for (size_t expert = 0; common && expert < experts; expert++)
        common = expert_has_type(&weights->experts[expert], type);
    return common ? type : MOECL_F32;
}

moecl_status moecl_model_layer_options(moecl_model *model, size_t layer, moecl_layer_options *options)
{
    moecl_status status = MOECL_OK;
    moecl_layer_options found;
    moecl_layer_weights weights;

    if (!model || !options)
        return MOECL_INVALID_ARGUMENT;
    TRY(moecl_model_find_weights(model, layer, &found, &weights));
    found.weights = common_type(&weights, found.experts);
    moecl_model_weights_free(&weights);
    *options = found;
out:
    return status;
}
