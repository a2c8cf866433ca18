/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.c - a layer's router and expert function in words, for people, and whole, for programs. */
#include "grammar.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fault.h"

static void say(char text[GRAMMAR_TEXT], const char *format, ...) TOOLS_PRINTF(2, 3);

static void say(char text[GRAMMAR_TEXT], const char *format, ...)
{
    const size_t length = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + length, GRAMMAR_TEXT - length, format, arguments);
    va_end(arguments);
}

/* 0 stands for 1 in many members. */
static float or_one(float value)
{
    return value == 0.0F ? 1.0F : value;
}

/* ------------------------------------------------------------------------------------------------ a router -- */

static void say_score(char text[GRAMMAR_TEXT], const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    say(text, "%s", moecl_choice_name(MOECL_CHOICE_SCORE, (int)router->score));
    if (router->biased)
        say(text, " with a bias");
    if (router->softcap > 0)
        say(text, " of logits capped at %g", (double)router->softcap);
    say(text, " over %zu experts", options->experts);
    if (router->zero_experts > 0)
        say(text, " and %zu that give back their input", router->zero_experts);
    if (router->noise)
        say(text, ", noisy in training");
}

static void say_selection(char text[GRAMMAR_TEXT], const moecl_layer_options *options)
{
    const moecl_router *router = &options->router;
    const char *biased = router->selection_biased ? " by score + bias" : "";
    if (router->groups > 1)
        say(text, ", the best %zu of %zu groups%s", router->top_groups, router->groups,
            router->group_score == MOECL_GROUP_SCORE_SUM_OF_TWO ? " by their best two" : "");
    switch (router->selection) {
    case MOECL_SELECTION_TOP_K:
        say(text, ", the top %zu%s", options->top_k, biased);
        break;
    case MOECL_SELECTION_TABLE:
        say(text, ", %zu by a table of %zu token ids", options->top_k, router->table_rows);
        break;
    case MOECL_SELECTION_EXPERT_CHOICE:
        say(text, ", experts choose tokens%s, %zu a token on average", biased, options->top_k);
        break;
    case MOECL_SELECTION_SINKHORN:
        say(text, ", the top %zu%s balanced by Sinkhorn's iterations", options->top_k, biased);
        break;
    }
    if (router->top_p > 0)
        say(text, ", until their mass is %g", (double)router->top_p);
    if (router->threshold > 0)
        say(text, ", of %g at least", (double)router->threshold);
}

static void say_weight(char text[GRAMMAR_TEXT], const moecl_router *router)
{
    static const char *const weights[] = {
        [MOECL_WEIGHT_SCORE] = "weights",
        [MOECL_WEIGHT_SOFTMAX] = "weights softmax of theirs",
        [MOECL_WEIGHT_SIGMOID] = "weights sigmoid",
        [MOECL_WEIGHT_ONE] = "weights 1",
    };
    say(text, ", %s", weights[router->weight]);
    const double epsilon = (double)router->epsilon;
    if (router->normalisation == MOECL_NORMALISATION_NONE && router->weight == MOECL_WEIGHT_SCORE)
        say(text, " as they are");
    else if (router->normalisation == MOECL_NORMALISATION_SUM && epsilon > 0)
        say(text, " divided by their sum + %g", epsilon);
    else if (router->normalisation == MOECL_NORMALISATION_SUM)
        say(text, " divided by their sum");
    else if (router->normalisation == MOECL_NORMALISATION_LARGER_SUM)
        say(text, " divided by their sum or %g", epsilon);
    else if (router->normalisation == MOECL_NORMALISATION_POWER)
        say(text, " divided by their %g-norm", (double)router->power);
    if (or_one(router->scale) != 1.0F)
        say(text, ", times %g", (double)router->scale);
    if (router->expert_scaled)
        say(text, ", times each expert's scale");
    if (router->weight_on_input)
        say(text, ", on the experts' input");
    if (router->random_second)
        say(text, ", those behind the first kept with twice their weight's probability in training");
}

static void say_capacity(char text[GRAMMAR_TEXT], const moecl_capacity *capacity)
{
    if (capacity->kind == MOECL_CAPACITY_NONE)
        return;
    static const char *const units[] = {
        [MOECL_CAPACITY_FIXED] = "tokens",
        [MOECL_CAPACITY_FACTOR] = "times its share",
        [MOECL_CAPACITY_FRACTION] = "of the tokens",
    };
    say(text, ", an expert has room for %g %s, by %s", (double)capacity->value, units[capacity->kind],
        moecl_choice_name(MOECL_CHOICE_CAPACITY_ORDER, (int)capacity->order));
}

const char *grammar_router(char text[GRAMMAR_TEXT], const moecl_layer_options *options)
{
    text[0] = '\0';
    say_score(text, options);
    say_selection(text, options);
    say_weight(text, &options->router);
    say_capacity(text, &options->router.capacity);
    return text;
}

/* ----------------------------------------------------------------------------------------------- an expert -- */

const char *grammar_function(char text[GRAMMAR_TEXT], const moecl_expert_function *function)
{
    const char *activation = moecl_choice_name(MOECL_CHOICE_ACTIVATION, (int)function->activation);
    text[0] = '\0';
    say(text, "down(%s(%s x)", activation, function->ungated ? "up" : "gate");
    if (!function->ungated && function->up_offset != 0.0F)
        say(text, " * (up x + %g)", (double)function->up_offset);
    else if (!function->ungated)
        say(text, " * up x");
    say(text, ")");
    if (or_one(function->alpha) != 1.0F)
        say(text, ", alpha %g", (double)function->alpha);
    if (function->clamp != MOECL_CLAMP_NONE)
        say(text, ", clamped at %g %s the activation", (double)function->limit,
            moecl_choice_name(MOECL_CHOICE_CLAMP, (int)function->clamp));
    if (function->biased)
        say(text, ", with biases");
    return text;
}

static void say_input(char text[GRAMMAR_TEXT], const char *reader, const moecl_input *input)
{
    if (!input->normalised)
        return;
    say(text, "%s%s see%s the RMS norm of x", text[0] ? ", " : "", reader,
        reader[strlen(reader) - 1] == 's' ? "" : "s");
}

const char *grammar_surroundings(char text[GRAMMAR_TEXT], const moecl_layer_options *options)
{
    text[0] = '\0';
    say_input(text, "router", &options->router_input);
    say_input(text, "experts", &options->expert_input);
    if (options->latent > 0)
        say(text, "%sexperts of a projection of x to %zu", text[0] ? ", " : "", options->latent);
    if (options->output_biased)
        say(text, "%sa bias on the output", text[0] ? ", " : "");
    return text;
}

/* -------------------------------------------------------------------------------------------- whole, as JSON -- */

static json_t *name_of(moecl_choice choice, int value)
{
    const char *name = moecl_choice_name(choice, value);
    return name ? json_string(name) : json_null();
}

static void put(json_t *object, const char *key, json_t *value)
{
    json_object_set_new(object, key, value);
}

static void put_real(json_t *object, const char *key, float value)
{
    put(object, key, json_real((double)value));
}

static void put_size(json_t *object, const char *key, size_t value)
{
    put(object, key, json_integer((json_int_t)value));
}

static json_t *capacity_json(const moecl_capacity *capacity)
{
    json_t *object = json_object();
    put(object, "kind", name_of(MOECL_CHOICE_CAPACITY, (int)capacity->kind));
    put_real(object, "value", capacity->value);
    put(object, "order", name_of(MOECL_CHOICE_CAPACITY_ORDER, (int)capacity->order));
    put(object, "normalise_after", json_boolean(capacity->normalise_after));
    return object;
}

json_t *grammar_router_json(const moecl_router *router)
{
    json_t *object = json_object();
    put(object, "score", name_of(MOECL_CHOICE_SCORE, (int)router->score));
    put(object, "biased", json_boolean(router->biased));
    put_real(object, "softcap", router->softcap);
    put_real(object, "jitter", router->jitter);
    put(object, "selection", name_of(MOECL_CHOICE_SELECTION, (int)router->selection));
    put(object, "selection_biased", json_boolean(router->selection_biased));
    put_size(object, "groups", router->groups);
    put_size(object, "top_groups", router->top_groups);
    put(object, "group_score", name_of(MOECL_CHOICE_GROUP_SCORE, (int)router->group_score));
    put(object, "group_mask", name_of(MOECL_CHOICE_GROUP_MASK, (int)router->group_mask));
    put_real(object, "top_p", router->top_p);
    put_real(object, "threshold", router->threshold);
    put_size(object, "table_rows", router->table_rows);
    put_size(object, "sinkhorn_iterations", router->sinkhorn_iterations);
    put(object, "weight", name_of(MOECL_CHOICE_WEIGHT, (int)router->weight));
    put(object, "normalisation", name_of(MOECL_CHOICE_NORMALISATION, (int)router->normalisation));
    put_real(object, "epsilon", router->epsilon);
    put_real(object, "power", router->power);
    put_real(object, "scale", or_one(router->scale));
    put(object, "expert_scaled", json_boolean(router->expert_scaled));
    put(object, "weight_on_input", json_boolean(router->weight_on_input));
    put_size(object, "zero_experts", router->zero_experts);
    put(object, "capacity", capacity_json(&router->capacity));
    put(object, "noise", json_boolean(router->noise));
    put_real(object, "input_jitter", router->input_jitter);
    put(object, "random_second", json_boolean(router->random_second));
    return object;
}

json_t *grammar_function_json(const moecl_expert_function *function)
{
    json_t *object = json_object();
    put(object, "activation", name_of(MOECL_CHOICE_ACTIVATION, (int)function->activation));
    put(object, "ungated", json_boolean(function->ungated));
    put(object, "biased", json_boolean(function->biased));
    put_real(object, "alpha", or_one(function->alpha));
    put(object, "clamp", name_of(MOECL_CHOICE_CLAMP, (int)function->clamp));
    put_real(object, "limit", function->limit);
    put_real(object, "up_offset", function->up_offset);
    return object;
}

json_t *grammar_input_json(const moecl_input *input)
{
    json_t *object = json_object();
    put(object, "normalised", json_boolean(input->normalised));
    put(object, "scaled", json_boolean(input->scaled));
    put_real(object, "epsilon", input->epsilon);
    put_real(object, "scale", or_one(input->scale));
    return object;
}

/* --------------------------------------------------------------------------------------------------- alike -- */

static bool same_objects(json_t *a, json_t *b)
{
    const bool same = json_equal(a, b);
    json_decref(a);
    json_decref(b);
    return same;
}

bool grammar_same(const moecl_layer_options *a, const moecl_layer_options *b)
{
    return a->experts == b->experts && a->hidden == b->hidden && a->intermediate == b->intermediate &&
           a->top_k == b->top_k && a->shared_intermediate == b->shared_intermediate && a->latent == b->latent &&
           a->shared_gate == b->shared_gate && a->shared_scale == b->shared_scale && a->weights == b->weights &&
           a->output_biased == b->output_biased &&
           same_objects(grammar_router_json(&a->router), grammar_router_json(&b->router)) &&
           same_objects(grammar_function_json(&a->function), grammar_function_json(&b->function)) &&
           same_objects(grammar_function_json(&a->shared_function), grammar_function_json(&b->shared_function)) &&
           same_objects(grammar_input_json(&a->router_input), grammar_input_json(&b->router_input)) &&
           same_objects(grammar_input_json(&a->expert_input), grammar_input_json(&b->expert_input));
}
