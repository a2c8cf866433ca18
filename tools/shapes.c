/* SPDX-License-Identifier: Apache-2.0 */
/* shapes.c - named layer sizes and their cost. */
#include "shapes.h"

#include <string.h>

static const struct shape shapes[] = {
    {"mixtral-8x7b", 8, 4096, 14336, 2}, {"qwen3-30b-a3b", 128, 2048, 768, 8},   {"olmoe-1b-7b", 64, 2048, 1024, 8},
    {"gpt-oss-20b", 32, 2880, 2880, 4},  {"granite-1b-a400m", 32, 1024, 512, 8}, {"deepseek-v3", 256, 7168, 2048, 8},
};
enum { SHAPE_COUNT = sizeof(shapes) / sizeof(shapes[0]) };

/* Reads "E,H,I,k"; false where the text has another form. */
static bool parse_numbers(const char *text, uint64_t numbers[4])
{
    for (int i = 0; i < 4; i++) {
        size_t length = strcspn(text, ",");
        if (!option_number(text, length, SIZE_MAX / 2, &numbers[i]) || (text[length] == '\0') != (i == 3))
            return false;
        text += length + 1;
    }
    return true;
}

enum outcome shape_parse(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    struct shape *shape = destination;
    uint64_t numbers[4];
    for (size_t i = 0; i < SHAPE_COUNT; i++) {
        if (strcmp(text, shapes[i].name) == 0) {
            *shape = shapes[i];
            return OUTCOME_SUCCESS;
        }
    }
    if (!parse_numbers(text, numbers))
        return option_refuse(option, text, "four numbers E,H,I,k or a name, as --help lists them", fault);
    uint64_t experts = numbers[0], hidden = numbers[1], intermediate = numbers[2], top_k = numbers[3];
    if (experts < 1 || experts > MOECL_MAX_EXPERTS)
        return fault_set(fault, OUTCOME_WRONG_USE, "--%s %s: E must be 1 to %d", option->name, text, MOECL_MAX_EXPERTS);
    if (hidden < 1 || hidden > SHAPE_MAX_WIDTH || intermediate < 1 || intermediate > SHAPE_MAX_WIDTH)
        return fault_set(fault, OUTCOME_WRONG_USE, "--%s %s: H and I must be 1 to %d", option->name, text,
                         SHAPE_MAX_WIDTH);
    uint64_t largest = experts < MOECL_MAX_TOP_K ? experts : MOECL_MAX_TOP_K;
    if (top_k < 1 || top_k > largest)
        return fault_set(fault, OUTCOME_WRONG_USE, "--%s %s: k must be 1 to %llu, no more than E and %d", option->name,
                         text, (unsigned long long)largest, MOECL_MAX_TOP_K);
    *shape = (struct shape){NULL, (size_t)experts, (size_t)hidden, (size_t)intermediate, (size_t)top_k};
    return OUTCOME_SUCCESS;
}

static double expert_parameters(const moecl_expert_function *function, double width, double intermediate)
{
    const double into = function->ungated ? 1 : 2; /* matrices before the activation, and one behind it */
    return (into + 1) * width * intermediate + (function->biased ? into * intermediate + width : 0);
}

struct shape_cost shape_cost(const moecl_layer_options *options)
{
    static const double gate_rows[] = {
        [MOECL_SHARED_GATE_NONE] = 0, [MOECL_SHARED_GATE_SIGMOID] = 1, [MOECL_SHARED_GATE_SOFTMAX] = 2};
    const moecl_router *router = &options->router;
    const double hidden = (double)options->hidden, element = (double)moecl_type_size(options->weights);
    const double width = options->latent ? (double)options->latent : hidden;
    const double rows = (double)options->experts + (double)router->zero_experts + gate_rows[options->shared_gate] +
                        (router->score == MOECL_SCORE_HIERARCHICAL ? (double)router->groups : 0);
    const double expert = expert_parameters(&options->function, width, (double)options->intermediate);
    double always = 2 * (double)options->latent * hidden, floats = rows * hidden; /* f32 on the device */
    if (options->shared_intermediate > 0)
        always += expert_parameters(&options->shared_function, hidden, (double)options->shared_intermediate);
    for (int i = 0; i < MOECL_VECTOR_COUNT; i++)
        floats += (double)moecl_vector_length(options, (moecl_vector)i);
    const double all = (double)options->experts * expert + always, met = (double)options->top_k * expert + always;
    return (struct shape_cost){
        .parameters = floats + all,
        .weight_bytes = floats * sizeof(float) + all * element,
        .token_parameters = floats + met,
        .token_bytes = floats * sizeof(float) + met * element,
        .token_flops = 2 * (floats + met),
    };
}

const char *shape_describe(char text[SHAPE_TEXT], const moecl_layer_options *options)
{
    int length = snprintf(text, SHAPE_TEXT, "%zu experts, %zu a token, hidden %zu, intermediate %zu", options->experts,
                          options->top_k, options->hidden, options->intermediate);
    if (options->shared_intermediate > 0)
        snprintf(text + length, SHAPE_TEXT - (size_t)length, ", shared expert %zu", options->shared_intermediate);
    return text;
}
