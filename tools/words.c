/* SPDX-License-Identifier: Apache-2.0 */
/* words.c - what a layer is, in words. */
#include <stdarg.h>
#include <stdio.h>

#include "descriptor.h"
#include "fault.h"

struct words {
    char *text;
    size_t length;
};

/* Adds words, behind a comma where there are some already; what has no room is left out. */
static void add(struct words *words, const char *format, ...) TOOLS_PRINTF(2, 3);
static void add(struct words *words, const char *format, ...)
{
    const size_t room = DESCRIPTOR_TEXT - words->length;
    int separator = words->length > 0 ? snprintf(words->text + words->length, room, ", ") : 0;
    va_list arguments;
    va_start(arguments, format);
    int length = (size_t)separator < room
                     ? vsnprintf(words->text + words->length + separator, room - (size_t)separator, format, arguments)
                     : 0;
    va_end(arguments);
    const size_t end = words->length + (size_t)separator + (length > 0 ? (size_t)length : 0);
    words->length = end < DESCRIPTOR_TEXT ? end : DESCRIPTOR_TEXT - 1;
}

static void add_flag(struct words *words, bool flag, const char *name)
{
    if (flag)
        add(words, "%s", name);
}

static void add_number(struct words *words, const char *name, float value)
{
    if (value != 0)
        add(words, "%s %g", name, (double)value);
}

/* The name of a choice, but for the first, which is the plainest; `before` and `after` go around it. */
static void add_choice(struct words *words, const char *before, moecl_choice choice, int value, const char *after)
{
    if (value != 0)
        add(words, "%s%s%s", before, moecl_choice_name(choice, value), after);
}

static void add_router(struct words *words, const moecl_router *router)
{
    add(words, "%s", moecl_choice_name(MOECL_CHOICE_SCORE, (int)router->score));
    add_number(words, "jitter", router->jitter);
    add_flag(words, router->biased, "router bias");
    add_number(words, "softcap", router->softcap);
    add_choice(words, "", MOECL_CHOICE_SELECTION, (int)router->selection, "");
    if (router->table_rows)
        add(words, "%zu rows", router->table_rows);
    if (router->sinkhorn_iterations)
        add(words, "%zu iterations", router->sinkhorn_iterations);
    add_flag(words, router->selection_biased, "selection bias");
    if (router->groups)
        add(words, "%zu of %zu groups", router->top_groups, router->groups);
    add_choice(words, "", MOECL_CHOICE_GROUP_SCORE, (int)router->group_score, "");
    add_choice(words, "", MOECL_CHOICE_GROUP_MASK, (int)router->group_mask, " mask");
    add_number(words, "top-p", router->top_p);
    add_number(words, "threshold", router->threshold);
    if (router->zero_experts)
        add(words, "%zu zero experts", router->zero_experts);
    add_choice(words, "weight ", MOECL_CHOICE_WEIGHT, (int)router->weight, "");
    add_choice(words, "over ", MOECL_CHOICE_NORMALISATION, (int)router->normalisation, "");
    if (router->normalisation == MOECL_NORMALISATION_POWER)
        add_number(words, "power", router->power);
    else if (router->normalisation != MOECL_NORMALISATION_NONE)
        add_number(words, "epsilon", router->epsilon);
    add_number(words, "scale", router->scale);
    add_flag(words, router->expert_scaled, "expert scale");
    add_flag(words, router->weight_on_input, "weight on input");
    add_choice(words, "capacity ", MOECL_CHOICE_CAPACITY, (int)router->capacity.kind, "");
    if (router->capacity.kind != MOECL_CAPACITY_NONE) {
        add(words, "%g by %s", (double)router->capacity.value,
            moecl_choice_name(MOECL_CHOICE_CAPACITY_ORDER, (int)router->capacity.order));
        add_flag(words, router->capacity.normalise_after, "normalised after");
    }
    add_flag(words, router->noise, "noise");
    add_number(words, "input jitter", router->input_jitter);
    add_flag(words, router->random_second, "random second");
}

static void add_function(struct words *words, const char *whose, const moecl_expert_function *function)
{
    add_choice(words, whose, MOECL_CHOICE_ACTIVATION, (int)function->activation, "");
    if (function->ungated)
        add(words, "%sungated", whose);
    if (function->biased)
        add(words, "%sbiased", whose);
    add_number(words, "alpha", function->alpha);
    if (function->clamp != MOECL_CLAMP_NONE)
        add(words, "%sclamp %s %g", whose, moecl_choice_name(MOECL_CHOICE_CLAMP, (int)function->clamp),
            (double)function->limit);
    add_number(words, "up offset", function->up_offset);
}

static void add_input(struct words *words, const char *whose, const moecl_input *input)
{
    if (!input->normalised)
        return;
    add(words, "%s norm%s", whose, input->scaled ? " scaled" : "");
    add_number(words, "input scale", input->scale);
}

const char *descriptor_text(char text[DESCRIPTOR_TEXT], const moecl_layer_options *options)
{
    struct words words = {text, 0};
    text[0] = '\0';
    add_router(&words, &options->router);
    add_function(&words, "", &options->function);
    if (options->shared_intermediate) {
        add(&words, "shared %zu", options->shared_intermediate);
        add_function(&words, "shared ", &options->shared_function);
        add_choice(&words, "shared gate ", MOECL_CHOICE_SHARED_GATE, (int)options->shared_gate, "");
        add_number(&words, "shared scale", options->shared_scale);
    }
    add_input(&words, "router", &options->router_input);
    add_input(&words, "expert", &options->expert_input);
    if (options->latent)
        add(&words, "latent %zu", options->latent);
    add_flag(&words, options->output_biased, "output bias");
    return text;
}
