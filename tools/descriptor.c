/* SPDX-License-Identifier: Apache-2.0 */
/* descriptor.c - layers drawn at random from all that a layer can be. */
#include "descriptor.h"

#include "synthetic.h"

/* A sequence of numbers of a seed. */
struct draw {
    uint64_t key, n;
};

static size_t between(struct draw *draw, size_t least, size_t largest)
{
    return synthetic_between(draw->key, draw->n++, least, largest);
}

static size_t between_scales(struct draw *draw, size_t least, size_t largest)
{
    return synthetic_between_scales(draw->key, draw->n++, least, largest);
}

/* True one time in `times`. */
static bool one_in(struct draw *draw, size_t times)
{
    return between(draw, 1, times) == 1;
}

/* From `least` to `largest`, in hundredths of the range. */
static float fraction(struct draw *draw, float least, float largest)
{
    return least + (largest - least) * (float)between(draw, 0, 100) / 100;
}

/* A value of an enumeration, whose names end with NULL. */
static int any(struct draw *draw, moecl_choice choice)
{
    int count = 0;
    while (moecl_choice_name(choice, count))
        count++;
    return (int)between(draw, 0, (size_t)count - 1);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------------------- router -- */

/* Scores and who is chosen by them; what excludes other options is drawn first. */
static void draw_selection(struct draw *draw, moecl_router *router)
{
    router->score = (moecl_score)any(draw, MOECL_CHOICE_SCORE);
    if (router->score != MOECL_SCORE_SPARSEMIXER && router->score != MOECL_SCORE_HIERARCHICAL && one_in(draw, 3))
        router->selection = (moecl_selection)any(draw, MOECL_CHOICE_SELECTION);
    if (router->selection == MOECL_SELECTION_TABLE)
        router->table_rows = between_scales(draw, 1, 200);
    if (router->selection == MOECL_SELECTION_SINKHORN && one_in(draw, 2))
        router->sinkhorn_iterations = between(draw, 1, 30);
    if (router->score == MOECL_SCORE_SPARSEMIXER)
        router->jitter = one_in(draw, 4) ? 0 : fraction(draw, 0, 0.3f);
    else
        router->selection_biased = one_in(draw, 3);
    router->biased = one_in(draw, 4);
    router->softcap = one_in(draw, 6) ? fraction(draw, 0.5f, 20) : 0;
}

/* Groups, if there are any; `experts` becomes a multiple of them, zero experts among them. */
static void draw_groups(struct draw *draw, moecl_layer_options *options)
{
    moecl_router *router = &options->router;
    const bool hierarchical = router->score == MOECL_SCORE_HIERARCHICAL;
    const bool possible = router->selection == MOECL_SELECTION_TOP_K && router->score != MOECL_SCORE_SPARSEMIXER;
    size_t outputs = options->experts;
    if (hierarchical || (possible && one_in(draw, 3))) {
        router->groups = between(draw, hierarchical ? 1 : 2, smaller(options->experts + 1, 8));
        outputs = (outputs + router->groups - 1) / router->groups * router->groups;
        router->top_groups = between(draw, 1, router->groups);
        router->group_score = (moecl_group_score)any(draw, MOECL_CHOICE_GROUP_SCORE);
        router->group_mask = (moecl_group_mask)any(draw, MOECL_CHOICE_GROUP_MASK);
    }
    if (router->selection != MOECL_SELECTION_EXPERT_CHOICE && outputs > 1 && one_in(draw, 8))
        router->zero_experts = between(draw, 1, outputs - 1);
    options->experts = outputs - router->zero_experts;
}

static void draw_top_k(struct draw *draw, moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const size_t outputs = options->experts + router->zero_experts;
    size_t most = smaller(outputs, MOECL_MAX_TOP_K);
    if (router->groups > 1 && router->group_mask == MOECL_GROUP_MASK_INFINITE)
        most = smaller(most, router->top_groups * (outputs / router->groups));
    options->top_k = one_in(draw, 8) ? most : between(draw, 1, smaller(most, 8));
}

/* Weights of logits may be of either sign and cancel in their sum, which says nothing: they are not normalised by it.
 */
static void draw_weights(struct draw *draw, moecl_router *router)
{
    static const float epsilons[] = {0, 1e-20f, 1e-12f, 1e-6f, 1e-3f}, powers[] = {1, 2, 0.5f, 3};
    router->weight = (moecl_weight)any(draw, MOECL_CHOICE_WEIGHT);
    router->normalisation = (moecl_normalisation)any(draw, MOECL_CHOICE_NORMALISATION);
    if (router->score == MOECL_SCORE_LOGIT && router->weight == MOECL_WEIGHT_SCORE &&
        (router->normalisation == MOECL_NORMALISATION_SUM || router->normalisation == MOECL_NORMALISATION_LARGER_SUM))
        router->normalisation = MOECL_NORMALISATION_POWER;
    router->epsilon = epsilons[between(draw, 0, 4)];
    router->power = powers[between(draw, 0, 3)];
    router->scale = one_in(draw, 4) ? fraction(draw, 0.5f, 3) : 0;
    router->expert_scaled = one_in(draw, 6);
    router->weight_on_input = !router->zero_experts && one_in(draw, 6);
    if (router->selection == MOECL_SELECTION_TOP_K) {
        router->top_p = one_in(draw, 6) ? fraction(draw, 0.05f, 1) : 0;
        router->threshold = one_in(draw, 8) ? fraction(draw, 0.01f, 0.6f) : 0;
    }
}

static void draw_capacity(struct draw *draw, moecl_layer_options *options)
{
    moecl_capacity *capacity = &options->router.capacity;
    if (options->router.selection == MOECL_SELECTION_EXPERT_CHOICE || !one_in(draw, 4))
        return;
    capacity->kind = (moecl_capacity_kind)any(draw, MOECL_CHOICE_CAPACITY);
    capacity->order = (moecl_capacity_order)any(draw, MOECL_CHOICE_CAPACITY_ORDER);
    capacity->normalise_after = one_in(draw, 3);
    switch (capacity->kind) {
    case MOECL_CAPACITY_FIXED:
        capacity->value = (float)between(draw, 0, 12);
        break;
    case MOECL_CAPACITY_FACTOR:
        capacity->value = fraction(draw, 0, 2);
        break;
    case MOECL_CAPACITY_FRACTION:
        capacity->value = fraction(draw, 0, 1);
        break;
    case MOECL_CAPACITY_NONE:
        break;
    }
}

static void draw_router(struct draw *draw, moecl_layer_options *options)
{
    moecl_router *router = &options->router;
    draw_selection(draw, router);
    draw_groups(draw, options);
    draw_top_k(draw, options);
    draw_weights(draw, router);
    draw_capacity(draw, options);
    router->noise = one_in(draw, 6);
    router->input_jitter = one_in(draw, 8) ? fraction(draw, 0.01f, 0.5f) : 0;
    router->random_second = router->selection != MOECL_SELECTION_EXPERT_CHOICE && one_in(draw, 8);
    router->seed = synthetic_seed(draw->key, draw->n++);
}

/* ----------------------------------------------------------------------------------------------- the rest -- */

/* Functions that models have, and some for what is left: kernels are built for each. One in twenty is any. */
static moecl_expert_function draw_function(struct draw *draw)
{
    static const moecl_expert_function functions[] = {
        {.activation = MOECL_ACTIVATION_SILU},
        {.activation = MOECL_ACTIVATION_SILU, .ungated = true},
        {.activation = MOECL_ACTIVATION_SILU, .alpha = 1.702f, .clamp = MOECL_CLAMP_BEFORE, .limit = 7, .up_offset = 1},
        {.activation = MOECL_ACTIVATION_SILU, .clamp = MOECL_CLAMP_BEFORE, .limit = 0.5f},
        {.activation = MOECL_ACTIVATION_SILU, .clamp = MOECL_CLAMP_AFTER, .limit = 0.25f},
        {.activation = MOECL_ACTIVATION_GELU},
        {.activation = MOECL_ACTIVATION_GELU, .ungated = true, .clamp = MOECL_CLAMP_AFTER, .limit = 1},
        {.activation = MOECL_ACTIVATION_GELU_TANH},
        {.activation = MOECL_ACTIVATION_RELU},
        {.activation = MOECL_ACTIVATION_RELU, .ungated = true},
        {.activation = MOECL_ACTIVATION_RELU_SQUARED, .ungated = true},
        {.activation = MOECL_ACTIVATION_IDENTITY, .up_offset = -0.5f},
        {.activation = MOECL_ACTIVATION_IDENTITY, .ungated = true},
    };
    moecl_expert_function function = functions[between(draw, 0, sizeof(functions) / sizeof(functions[0]) - 1)];
    if (one_in(draw, 20)) {
        function.activation = (moecl_activation)any(draw, MOECL_CHOICE_ACTIVATION);
        function.ungated = one_in(draw, 2);
        function.alpha = one_in(draw, 2) ? fraction(draw, 0.5f, 2) : 0;
        function.clamp = (moecl_clamp)any(draw, MOECL_CHOICE_CLAMP);
        function.limit = fraction(draw, 0.1f, 3);
        function.up_offset = fraction(draw, -1, 1);
    }
    function.biased = one_in(draw, 3);
    return function;
}

static moecl_input draw_input(struct draw *draw)
{
    moecl_input input = {.normalised = true, .scaled = one_in(draw, 2)};
    input.epsilon = one_in(draw, 2) ? 1e-6f : 1e-2f;
    input.scale = one_in(draw, 2) ? fraction(draw, 0.3f, 2) : 0;
    return input;
}

static void draw_parts(struct draw *draw, moecl_layer_options *options, size_t widest)
{
    options->function = draw_function(draw);
    if (one_in(draw, 3)) {
        options->shared_intermediate = between_scales(draw, 1, widest);
        options->shared_function = draw_function(draw);
        options->shared_gate = (moecl_shared_gate)any(draw, MOECL_CHOICE_SHARED_GATE);
        options->shared_scale = one_in(draw, 3) ? fraction(draw, 0.3f, 2) : 0;
    }
    if (one_in(draw, 6))
        options->router_input = draw_input(draw);
    if (!options->router.zero_experts && one_in(draw, 6))
        options->latent = between_scales(draw, 1, options->hidden);
    else if (one_in(draw, 6))
        options->expert_input = draw_input(draw);
    options->output_biased = one_in(draw, 6);
    options->weights = (moecl_type)between(draw, MOECL_F32, MOECL_BF16);
    options->activations = (moecl_type)between(draw, MOECL_F32, MOECL_BF16);
}

moecl_layer_options descriptor_draw(uint64_t seed, const struct descriptor_limits *limits)
{
    struct draw draw = {synthetic_seed(seed, 0), 0};
    moecl_layer_options options = {0};
    do {
        options.experts = one_in(&draw, 16) ? 1 : between_scales(&draw, 1, limits->experts);
        options.hidden = between_scales(&draw, 1, limits->hidden);
        options.intermediate = between_scales(&draw, 1, limits->intermediate);
    } while (3 * options.experts * options.hidden * options.intermediate > limits->weights);
    draw_router(&draw, &options);
    draw_parts(&draw, &options, limits->intermediate);
    return options;
}
