/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - what the options of a layer mean, and which of them go together. */
#include "options.h"

size_t moecl_router_outputs(const moecl_layer_options *options)
{
    return options->experts + options->router.zero_experts;
}

size_t moecl_router_rows(const moecl_layer_options *options)
{
    const bool hierarchical = options->router.score == MOECL_SCORE_HIERARCHICAL;
    return moecl_router_outputs(options) + (hierarchical ? options->router.groups : 0);
}

size_t moecl_shared_gate_rows(const moecl_layer_options *options)
{
    static const size_t rows[] = {
        [MOECL_SHARED_GATE_NONE] = 0, [MOECL_SHARED_GATE_SIGMOID] = 1, [MOECL_SHARED_GATE_SOFTMAX] = 2};
    return rows[options->shared_gate];
}

size_t moecl_layer_slots(const moecl_layer_options *options)
{
    return options->router.selection == MOECL_SELECTION_EXPERT_CHOICE ? options->experts : options->top_k;
}

const char *moecl_vector_name(moecl_vector vector)
{
    static const char *const names[] = {
#define MOECL_VECTOR_NAME(name, text) [MOECL_VECTOR_##name] = text,
        MOECL_VECTOR_LIST(MOECL_VECTOR_NAME)
#undef MOECL_VECTOR_NAME
    };
    return vector < MOECL_VECTOR_COUNT ? names[vector] : NULL;
}

size_t moecl_vector_length(const moecl_layer_options *options, moecl_vector vector)
{
    const moecl_router *router = &options->router;
    const size_t outputs = moecl_router_outputs(options), hidden = options->hidden;
    switch (vector) {
    case MOECL_VECTOR_ROUTER_BIAS:
        return router->biased ? outputs : 0;
    case MOECL_VECTOR_SELECTION_BIAS:
        return router->selection_biased ? outputs : 0;
    case MOECL_VECTOR_EXPERT_SCALE:
        return router->expert_scaled ? outputs : 0;
    case MOECL_VECTOR_ROUTER_NORM:
        return options->router_input.normalised && options->router_input.scaled ? hidden : 0;
    case MOECL_VECTOR_EXPERT_NORM:
        return options->expert_input.normalised && options->expert_input.scaled ? hidden : 0;
    case MOECL_VECTOR_OUTPUT_BIAS:
        return options->output_biased ? hidden : 0;
    case MOECL_VECTOR_COUNT:
        break;
    }
    return 0;
}

moecl_status moecl_layer_options_check(struct moecl_context *context, const moecl_layer_options *options)
{
    struct moecl_error *error = &context->error;
    moecl_status status = MOECL_OK;
    if (options->experts < 1 || options->experts > MOECL_MAX_EXPERTS)
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: %zu experts, must be 1 to %d", options->experts, MOECL_MAX_EXPERTS);
    if (options->top_k < 1 || options->top_k > MOECL_MAX_TOP_K)
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: %zu experts per token, must be 1 to %d", options->top_k,
             MOECL_MAX_TOP_K);
    if (options->top_k > options->experts)
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: %zu experts per token, but only %zu experts", options->top_k,
             options->experts);
    const size_t largest = (size_t)1 << 24;
    if (options->hidden < 1 || options->intermediate < 1 || options->hidden > largest ||
        options->intermediate > largest || options->shared_intermediate > largest)
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: hidden %zu, intermediate %zu, shared %zu; must be 1 to %zu",
             options->hidden, options->intermediate, options->shared_intermediate, largest);
    if (options->shared_gate && !options->shared_intermediate)
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: a gate for a shared expert that is not there");
    if (!moecl_type_size(options->weights) || !moecl_type_size(options->activations))
        FAIL(error, MOECL_INVALID_ARGUMENT, "layer: an unknown type");
out:
    return status;
}
