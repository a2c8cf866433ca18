/* SPDX-License-Identifier: Apache-2.0 */
/* survey.c - routes tokens through every layer of a model. */
#include "survey.h"

#include <stdlib.h>

#include <moecl/stages.h>

#include "device.h"
#include "output.h"
#include "tokens.h"

/* What one layer's routing holds. */
struct routed {
    struct tokens tokens;
    moecl_layer *layer;
    moecl_forward forward;
};

/* The layer with its router alone: experts of one hidden unit, which are never run, no shared expert. */
static moecl_layer_options router_only(const moecl_layer_options *whole)
{
    moecl_layer_options options = {.experts = whole->experts,
                                   .hidden = whole->hidden,
                                   .intermediate = 1,
                                   .top_k = whole->top_k,
                                   .router = whole->router,
                                   .router_input = whole->router_input,
                                   .weights = whole->weights,
                                   .activations = whole->activations};
    return options;
}

static enum outcome set_router(moecl_context *context, moecl_layer *layer, const moecl_layer_options *options,
                               const moecl_layer_weights *weights, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    if (options->router.selection != MOECL_SELECTION_TABLE || weights->router.data)
        TRY_MOECL(context, moecl_layer_set_router(layer, &weights->router));
    for (int i = 0; i < MOECL_VECTOR_COUNT; i++) {
        const moecl_vector vector = (moecl_vector)i;
        if (moecl_vector_length(options, vector) > 0)
            TRY_MOECL(context, moecl_layer_set_vector(layer, vector, &weights->vectors[i]));
    }
    if (options->router.selection == MOECL_SELECTION_TABLE)
        TRY_MOECL(context, moecl_layer_set_table(layer, weights->table));
out:
    return outcome;
}

static enum outcome load_router(struct routed *routed, moecl_context *context, moecl_model *model, size_t number,
                                const moecl_layer_options *whole, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    const moecl_layer_options options = router_only(whole);
    moecl_layer_weights weights = {.experts = NULL};
    TRY_MOECL(context, moecl_layer_create(context, &options, &routed->layer));
    TRY_MOECL(context, moecl_model_weights(model, number, &weights));
    TRY(set_router(context, routed->layer, &options, &weights, fault));
out:
    moecl_model_weights_free(&weights);
    return outcome;
}

static enum outcome route(struct routed *routed, moecl_context *context, const moecl_layer_options *options,
                          struct fault *fault)
{
    const size_t tokens = routed->tokens.count, choices = tokens * moecl_layer_slots(options);
    moecl_forward *forward = &routed->forward;
    enum outcome outcome = OUTCOME_SUCCESS;
    forward->tokens = tokens;
    TRY(device_buffer_create(context, "x", tokens * options->hidden * moecl_type_size(options->activations),
                             routed->tokens.rounded, &forward->x, fault));
    TRY(device_buffer_create(context, "ids", choices * sizeof(int32_t), NULL, &forward->routing.ids, fault));
    TRY(device_buffer_create(context, "routing weights", choices * sizeof(float), NULL, &forward->routing.weights,
                             fault));
    if (routed->tokens.ids)
        TRY(device_buffer_create(context, "token ids", tokens * sizeof(int32_t), routed->tokens.ids,
                                 &forward->token_ids, fault));
    TRY_MOECL(context, moecl_route(routed->layer, forward, (moecl_buffer){NULL, 0}, 0, NULL, NULL));
    TRY_MOECL(context, moecl_layer_check(routed->layer));
out:
    return outcome;
}

static void routed_free(struct routed *routed)
{
    device_buffer_release(&routed->forward.x);
    device_buffer_release(&routed->forward.routing.ids);
    device_buffer_release(&routed->forward.routing.weights);
    device_buffer_release(&routed->forward.token_ids);
    moecl_layer_destroy(routed->layer);
    tokens_free(&routed->tokens);
}

static enum outcome survey_layer(struct survey_layer *surveyed, moecl_context *context, moecl_model *model,
                                 const char *input, const char *token_ids, moecl_type activations, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    struct routed routed = {.layer = NULL};
    moecl_layer_options options;
    char *path = tokens_path(input, surveyed->layer);
    if (!path) {
        outcome = fault_memory(fault, "a path");
        goto out;
    }
    TRY_MOECL(context, moecl_model_layer_options(model, surveyed->layer, &options));
    options.activations = activations;
    TRY(tokens_read(&routed.tokens, path, token_ids, &options, fault));
    TRY(load_router(&routed, context, model, surveyed->layer, &options, fault));
    TRY(route(&routed, context, &options, fault));
    TRY(statistics_read(&surveyed->statistics, context, &options, routed.tokens.count, routed.forward.routing.ids,
                        fault));
out:
    routed_free(&routed);
    free(path);
    return outcome;
}

enum outcome survey_make(struct survey *survey, moecl_context *context, moecl_model *model, const char *input,
                         const char *token_ids, moecl_type activations, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_model_info info;
    moecl_model_describe(model, &info);
    survey->layers = calloc(info.layers + 1, sizeof(*survey->layers));
    if (!survey->layers) {
        outcome = fault_memory(fault, "the layers");
        goto out;
    }
    for (size_t layer = 0; layer < info.layers; layer++) {
        if (!moecl_model_is_moe(model, layer))
            continue;
        struct survey_layer *surveyed = &survey->layers[survey->count++];
        surveyed->layer = layer;
        output_progress("routing layer %zu", layer);
        TRY(survey_layer(surveyed, context, model, input, token_ids, activations, fault));
    }
    if (survey->count == 0)
        FAIL(OUTCOME_WRONG_USE, "the model has no MoE layer");
out:
    output_progress("%s", "");
    return outcome;
}

void survey_free(struct survey *survey)
{
    for (size_t i = 0; i < survey->count; i++)
        statistics_free(&survey->layers[i].statistics);
    free(survey->layers);
    *survey = (struct survey){.count = 0};
}

enum outcome survey_print(const struct survey *survey, struct fault *fault)
{
    static const struct column columns[] = {{"layer", true, 5},   {"tokens", true, 6},  {"experts", true, 7},
                                            {"used", true, 7},    {"dropped", true, 7}, {"idle", true, 4},
                                            {"largest", true, 7}, {"mean", true, 7},    {"max/mean", true, 8},
                                            {"entropy", true, 7}, {"of ln R", true, 7}, {"CV^2", true, 8}};
    struct table table = table_begin(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t i = 0; i < survey->count; i++) {
        const struct statistics *statistics = &survey->layers[i].statistics;
        const moecl_load_statistics *figures = &statistics->figures;
        table_cell(&table, "%zu", survey->layers[i].layer);
        table_cell(&table, "%zu", statistics->tokens);
        table_cell(&table, "%zu", statistics->outputs);
        table_cell(&table, "%u", (unsigned)figures->used);
        table_cell(&table, "%u", (unsigned)statistics_dropped(statistics));
        table_cell(&table, "%u", (unsigned)figures->idle);
        table_cell(&table, "%u", (unsigned)figures->largest);
        table_cell(&table, "%.4g", (double)figures->mean);
        table_cell(&table, "%.3f", (double)figures->largest_over_mean);
        table_cell(&table, "%.4f", (double)figures->entropy);
        table_cell(&table, "%.1f %%", 100 * statistics_evenness(statistics));
        table_cell(&table, "%.4g", (double)figures->squared_variation);
    }
    const enum outcome outcome = table_print(&table, fault);
    table_end(&table);
    return outcome;
}

json_t *survey_json(const struct survey *survey)
{
    json_t *layers = json_array();
    for (size_t i = 0; layers && i < survey->count; i++) {
        const struct statistics *statistics = &survey->layers[i].statistics;
        json_array_append_new(
            layers, json_pack("{s:I, s:I, s:I, s:o, s:o}", "layer", (json_int_t)survey->layers[i].layer, "tokens",
                              (json_int_t)statistics->tokens, "experts", (json_int_t)statistics->experts, "load",
                              statistics_load_json(statistics), "statistics", statistics_json(statistics)));
    }
    return layers;
}
