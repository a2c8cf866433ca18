/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - what the options of a layer mean. */
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

size_t moecl_router_columns(const moecl_layer_options *options)
{
    const size_t noise = options->router.noise ? moecl_router_outputs(options) : 0;
    return moecl_router_rows(options) + moecl_shared_gate_rows(options) + noise;
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

bool moecl_layer_is_wide(const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    return router->capacity.kind != MOECL_CAPACITY_NONE || moecl_layer_needs_all_logits(options);
}

bool moecl_layer_needs_all_logits(const moecl_layer_options *options)
{
    return options->router.selection == MOECL_SELECTION_EXPERT_CHOICE ||
           options->router.selection == MOECL_SELECTION_SINKHORN;
}

size_t moecl_layer_most_rows(const moecl_layer_options *options, size_t pass_tokens, size_t tokens)
{
    const size_t rows = tokens * moecl_layer_slots(options);
    if (options->router.selection != MOECL_SELECTION_EXPERT_CHOICE)
        return rows;
    const size_t chosen = options->experts * moecl_expert_choice_capacity(options, pass_tokens);
    return rows < chosen ? rows : chosen;
}

size_t moecl_expert_choice_capacity(const moecl_layer_options *options, size_t tokens)
{
    const size_t share = (tokens * options->top_k + options->experts - 1) / options->experts;
    return share < tokens ? share : tokens;
}

size_t moecl_expert_width(const moecl_layer_options *options)
{
    return options->latent ? options->latent : options->hidden;
}
