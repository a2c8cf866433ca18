/* SPDX-License-Identifier: Apache-2.0 */
/* options_check.c - which options of a layer are within their bounds and go together. */
#include <math.h>

#include "options.h"

#define REFUSE(...) FAIL(error, MOECL_INVALID_ARGUMENT, "layer: " __VA_ARGS__)

static moecl_status check_sizes(struct moecl_error *error, const moecl_layer_options *options)
{
    const struct {
        const char *name;
        size_t value, least;
    } sizes[] = {{"hidden", options->hidden, 1},
                 {"intermediate", options->intermediate, 1},
                 {"shared intermediate", options->shared_intermediate, 0},
                 {"latent", options->latent, 0}};
    const size_t largest = (size_t)1 << 24;
    moecl_status status = MOECL_OK;
    if (options->experts < 1 || options->experts > MOECL_MAX_EXPERTS)
        REFUSE("%zu experts, must be 1 to %d", options->experts, MOECL_MAX_EXPERTS);
    if (options->router.zero_experts > MOECL_MAX_EXPERTS || moecl_router_outputs(options) > MOECL_MAX_EXPERTS)
        REFUSE("%zu experts and %zu zero experts, must be at most %d together", options->experts,
               options->router.zero_experts, MOECL_MAX_EXPERTS);
    if (options->top_k < 1 || options->top_k > MOECL_MAX_TOP_K)
        REFUSE("%zu experts per token, must be 1 to %d", options->top_k, MOECL_MAX_TOP_K);
    if (options->top_k > moecl_router_outputs(options))
        REFUSE("%zu experts per token, but only %zu experts", options->top_k, moecl_router_outputs(options));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i].value < sizes[i].least || sizes[i].value > largest)
            REFUSE("%s %zu, must be %zu to %zu", sizes[i].name, sizes[i].value, sizes[i].least, largest);
    if (!moecl_type_size(options->weights) || !moecl_type_size(options->activations))
        REFUSE("an unknown type");
out:
    return status;
}

/* Every enumeration within its values. */
static moecl_status check_choices(struct moecl_error *error, const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const struct {
        moecl_choice choice;
        int value;
        const char *name;
    } choices[] = {
        {MOECL_CHOICE_SCORE, (int)router->score, "score"},
        {MOECL_CHOICE_SELECTION, (int)router->selection, "selection"},
        {MOECL_CHOICE_WEIGHT, (int)router->weight, "weight"},
        {MOECL_CHOICE_NORMALISATION, (int)router->normalisation, "normalisation"},
        {MOECL_CHOICE_GROUP_SCORE, (int)router->group_score, "group score"},
        {MOECL_CHOICE_GROUP_MASK, (int)router->group_mask, "group mask"},
        {MOECL_CHOICE_CAPACITY, (int)router->capacity.kind, "capacity"},
        {MOECL_CHOICE_CAPACITY_ORDER, (int)router->capacity.order, "capacity order"},
        {MOECL_CHOICE_ACTIVATION, (int)options->function.activation, "activation"},
        {MOECL_CHOICE_ACTIVATION, (int)options->shared_function.activation, "shared expert's activation"},
        {MOECL_CHOICE_CLAMP, (int)options->function.clamp, "clamp"},
        {MOECL_CHOICE_CLAMP, (int)options->shared_function.clamp, "shared expert's clamp"},
        {MOECL_CHOICE_SHARED_GATE, (int)options->shared_gate, "shared gate"},
    };
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < sizeof(choices) / sizeof(choices[0]); i++)
        if (!moecl_choice_name(choices[i].choice, choices[i].value))
            REFUSE("%s %d is unknown", choices[i].name, choices[i].value);
out:
    return status;
}

/* Numbers that must be finite and not negative. */
static moecl_status check_numbers(struct moecl_error *error, const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const struct {
        const char *name;
        float value;
    } numbers[] = {
        {"softcap", router->softcap},
        {"jitter", router->jitter},
        {"top_p", router->top_p},
        {"threshold", router->threshold},
        {"epsilon", router->epsilon},
        {"input jitter", router->input_jitter},
        {"capacity", router->capacity.value},
        {"router input's epsilon", options->router_input.epsilon},
        {"expert input's epsilon", options->expert_input.epsilon},
        {"limit", options->function.limit},
        {"shared expert's limit", options->shared_function.limit},
    };
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (!isfinite(numbers[i].value) || numbers[i].value < 0)
            REFUSE("%s %g, must be finite and not negative", numbers[i].name, (double)numbers[i].value);
    if (!isfinite(router->scale) || !isfinite(options->shared_scale))
        REFUSE("a scale that is not finite");
    if (router->normalisation == MOECL_NORMALISATION_POWER && !(isfinite(router->power) && router->power > 0))
        REFUSE("power %g, must be positive", (double)router->power);
out:
    return status;
}

static moecl_status check_groups(struct moecl_error *error, const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const size_t groups = router->groups, outputs = moecl_router_outputs(options);
    moecl_status status = MOECL_OK;
    if (router->score == MOECL_SCORE_HIERARCHICAL && groups < 1)
        REFUSE("a hierarchical router without groups");
    if (groups <= 1)
        goto out;
    if (outputs % groups != 0)
        REFUSE("%zu groups of %zu experts", groups, outputs);
    if (router->top_groups < 1 || router->top_groups > groups)
        REFUSE("the top %zu of %zu groups", router->top_groups, groups);
    if (router->group_mask == MOECL_GROUP_MASK_INFINITE && router->top_groups * (outputs / groups) < options->top_k)
        REFUSE("%zu experts per token, but only %zu in %zu groups", options->top_k,
               router->top_groups * (outputs / groups), router->top_groups);
out:
    return status;
}

static moecl_status check_selection(struct moecl_error *error, const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const bool top_k = router->selection == MOECL_SELECTION_TOP_K;
    moecl_status status = MOECL_OK;
    if (router->selection == MOECL_SELECTION_TABLE && (router->table_rows < 1 || router->table_rows > INT32_MAX))
        REFUSE("an id table of %zu rows", router->table_rows);
    if (!top_k && (router->groups > 1 || router->top_p > 0 || router->threshold > 0) &&
        router->score != MOECL_SCORE_HIERARCHICAL)
        REFUSE("groups, top_p and threshold are for top-k selection");
    if (router->score == MOECL_SCORE_SPARSEMIXER && (!top_k || router->selection_biased || router->groups > 1))
        REFUSE("a sparsemixer picks by its logits alone");
    if (router->score == MOECL_SCORE_HIERARCHICAL && !top_k)
        REFUSE("a hierarchical router selects by top-k");
    if (router->selection == MOECL_SELECTION_EXPERT_CHOICE &&
        (router->zero_experts || router->capacity.kind != MOECL_CAPACITY_NONE || router->random_second))
        REFUSE("where experts choose there are no zero experts, no capacity and no second choice");
    if (router->selection == MOECL_SELECTION_SINKHORN && router->sinkhorn_iterations > 1000)
        REFUSE("%zu Sinkhorn iterations", router->sinkhorn_iterations);
    if (router->weight_on_input && router->zero_experts)
        REFUSE("zero experts take no weight on their input");
out:
    return status;
}

static moecl_status check_parts(struct moecl_error *error, const moecl_layer_options *options)
{
    moecl_status status = MOECL_OK;
    if (options->shared_gate != MOECL_SHARED_GATE_NONE && !options->shared_intermediate)
        REFUSE("a gate for a shared expert that is not there");
    if (options->latent && (options->expert_input.normalised || options->router.zero_experts))
        REFUSE("a latent projection goes neither with an expert input of its own nor with zero experts");
    if (options->router.input_jitter >= 1)
        REFUSE("input jitter %g, must be below 1", (double)options->router.input_jitter);
out:
    return status;
}

moecl_status moecl_layer_options_check(struct moecl_context *context, const moecl_layer_options *options)
{
    struct moecl_error *error = &context->error;
    moecl_status status = MOECL_OK;
    TRY(check_sizes(error, options));
    TRY(check_choices(error, options));
    TRY(check_numbers(error, options));
    TRY(check_groups(error, options));
    TRY(check_selection(error, options));
    TRY(check_parts(error, options));
out:
    return status;
}
