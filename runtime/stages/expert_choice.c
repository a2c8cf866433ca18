/* SPDX-License-Identifier: Apache-2.0 */
/* expert_choice.c - launches cl/expert_choice.cl, which has the algorithm. */
#include "expert_choice.h"

#include <stdio.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"

enum { GROUP = 64 };

/* The workspace: the keys, then the cuts. */
static size_t keys_bytes(size_t tokens, size_t experts)
{
    return moecl_round_up(tokens * experts * sizeof(cl_uint), 256);
}

size_t moecl_expert_choice_workspace_size(size_t tokens, size_t experts)
{
    if (tokens > MOECL_MAX_TOKENS || experts < 1 || experts > MOECL_MAX_EXPERTS)
        return 0;
    return keys_bytes(tokens, experts) + experts * 2 * sizeof(cl_uint);
}

moecl_status moecl_expert_choice_kernels_create(struct moecl_context *context,
                                                struct moecl_expert_choice_kernels *kernels)
{
    moecl_status status = MOECL_OK;
    char options[512];
    *kernels = (struct moecl_expert_choice_kernels){0};
    snprintf(options, sizeof(options),
             "-DGROUP=%d -DSCORE_SOFTMAX=%d -DSCORE_SIGMOID=%d -DSCORE_SQRT_SOFTPLUS=%d -DSCORE_LOGIT=%d "
             "-DSCORE_HIERARCHICAL=%d -DWEIGHT_SCORE=%d -DWEIGHT_SOFTMAX=%d -DWEIGHT_SIGMOID=%d -DWEIGHT_ONE=%d "
             "-DNORMALISATION_NONE=%d -DNORMALISATION_SUM=%d -DNORMALISATION_LARGER_SUM=%d -DNORMALISATION_POWER=%d",
             GROUP, MOECL_SCORE_SOFTMAX, MOECL_SCORE_SIGMOID, MOECL_SCORE_SQRT_SOFTPLUS, MOECL_SCORE_LOGIT,
             MOECL_SCORE_HIERARCHICAL, MOECL_WEIGHT_SCORE, MOECL_WEIGHT_SOFTMAX, MOECL_WEIGHT_SIGMOID, MOECL_WEIGHT_ONE,
             MOECL_NORMALISATION_NONE, MOECL_NORMALISATION_SUM, MOECL_NORMALISATION_LARGER_SUM,
             MOECL_NORMALISATION_POWER);
    TRY(moecl_kernel_create(context, "expert_choice.cl", options, "expert_choice_score", &kernels->score));
    TRY(moecl_kernel_create(context, "expert_choice.cl", options, "expert_choice_keys", &kernels->keys));
    TRY(moecl_kernel_create(context, "expert_choice.cl", options, "expert_choice_select", &kernels->select));
    TRY(moecl_kernel_create(context, "expert_choice.cl", options, "expert_choice_write", &kernels->write));
    TRY(moecl_kernel_create(context, "expert_choice.cl", options, "expert_choice_weigh", &kernels->weigh));
out:
    if (status != MOECL_OK)
        moecl_expert_choice_kernels_release(kernels);
    return status;
}

void moecl_expert_choice_kernels_release(struct moecl_expert_choice_kernels *kernels)
{
    cl_kernel *const all[] = {&kernels->score, &kernels->keys, &kernels->select, &kernels->write, &kernels->weigh};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
}

moecl_status moecl_scores_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                  const struct moecl_scores_call *call)
{
    const size_t local[] = {GROUP};
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(call->tokens),    ARGUMENT_U32(call->experts),   ARGUMENT_U32(call->score),
        ARGUMENT_U32(call->groups),    ARGUMENT_BUFFER(call->logits), ARGUMENT_U32(call->stride),
        ARGUMENT_BUFFER(call->scores), ARGUMENT_BUFFER(call->flag),
    };
    return moecl_launch(chain, kernels->score, 1, &call->tokens, local, arguments,
                        sizeof(arguments) / sizeof(arguments[0]));
}

/* No expert takes a token: every choice is unused. */
static moecl_status choose_nothing(struct moecl_chain *chain, const moecl_expert_choice_call *call)
{
    const size_t bytes = call->tokens * call->experts * sizeof(cl_int);
    const cl_int unused = -1;
    const cl_float zero = 0.0f;
    moecl_status status = MOECL_OK;
    TRY(moecl_launch_fill(chain, call->routing.ids, &unused, sizeof(unused), bytes));
    TRY(moecl_launch_fill(chain, call->routing.weights, &zero, sizeof(zero), bytes));
out:
    return status;
}

moecl_status moecl_expert_choice_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                         const moecl_expert_choice_call *call)
{
    const size_t tokens = call->tokens, experts = call->experts;
    const size_t capacity = call->capacity < tokens ? call->capacity : tokens;
    const size_t by_token[] = {tokens, experts}, by_expert[] = {experts, tokens}, plane[] = {GROUP, 1};
    const size_t line[] = {GROUP}, items[] = {experts * GROUP};
    const moecl_buffer keys = call->workspace, cuts = moecl_buffer_at(keys, keys_bytes(tokens, experts));
    const moecl_buffer bias = call->selection_bias.memory ? call->selection_bias : call->scores;
    moecl_status status = MOECL_OK;
    if (capacity == 0)
        return choose_nothing(chain, call);

    const struct moecl_argument key[] = {ARGUMENT_U32(tokens),
                                         ARGUMENT_U32(experts),
                                         ARGUMENT_BUFFER(call->scores),
                                         ARGUMENT_U32(call->stride),
                                         ARGUMENT_U32(call->selection_bias.memory != NULL),
                                         ARGUMENT_BUFFER(bias),
                                         ARGUMENT_BUFFER(keys)};
    TRY(moecl_launch(chain, kernels->keys, 2, by_token, plane, key, 7));
    const struct moecl_argument select[] = {ARGUMENT_U32(tokens), ARGUMENT_U32(capacity), ARGUMENT_BUFFER(keys),
                                            ARGUMENT_BUFFER(cuts)};
    TRY(moecl_launch(chain, kernels->select, 1, items, line, select, 4));
    const struct moecl_argument write[] = {ARGUMENT_U32(tokens),
                                           ARGUMENT_U32(experts),
                                           ARGUMENT_BUFFER(call->scores),
                                           ARGUMENT_U32(call->stride),
                                           ARGUMENT_BUFFER(keys),
                                           ARGUMENT_BUFFER(cuts),
                                           ARGUMENT_BUFFER(call->routing.ids),
                                           ARGUMENT_BUFFER(call->routing.weights)};
    TRY(moecl_launch(chain, kernels->write, 2, by_expert, plane, write, 8));
out:
    return status;
}

moecl_status moecl_choice_weights_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                          const struct moecl_choice_weights_call *call)
{
    const moecl_router *router = call->router;
    const bool expert_scaled = call->expert_scale.memory != NULL;
    const size_t local[] = {GROUP};
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(call->tokens),
        ARGUMENT_U32(call->slots),
        ARGUMENT_U32(router->weight),
        ARGUMENT_U32(router->normalisation),
        ARGUMENT_F32(router->epsilon),
        ARGUMENT_F32(router->power),
        ARGUMENT_F32(router->scale == 0.0f ? 1.0f : router->scale),
        ARGUMENT_BUFFER(call->logits),
        ARGUMENT_U32(call->stride),
        ARGUMENT_U32(expert_scaled),
        ARGUMENT_BUFFER(expert_scaled ? call->expert_scale : call->logits),
        ARGUMENT_BUFFER(call->routing.ids),
        ARGUMENT_BUFFER(call->routing.weights),
    };
    return moecl_launch(chain, kernels->weigh, 1, &call->tokens, local, arguments,
                        sizeof(arguments) / sizeof(arguments[0]));
}

static moecl_status check_call(moecl_context *context, const moecl_expert_choice_call *call)
{
    moecl_status status = MOECL_OK;
    const size_t tokens = call->tokens, experts = call->experts, size = sizeof(cl_float);
    const size_t workspace_bytes = moecl_expert_choice_workspace_size(tokens, experts);
    const size_t bytes = tokens * experts * size;
    TRY(moecl_context_require_device(context));
    if (workspace_bytes == 0 || call->stride < experts || call->stride > INT32_MAX)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "expert choice: %zu tokens and %zu experts in rows of %zu",
             tokens, experts, call->stride);
    if (call->selection_bias.memory)
        TRY(moecl_buffer_check(context, call->selection_bias, experts * size, size, "expert choice: selection bias"));
    if (tokens == 0)
        goto out;
    TRY(moecl_buffer_check(context, call->scores, ((tokens - 1) * call->stride + experts) * size, size,
                           "expert choice: scores"));
    TRY(moecl_buffer_check(context, call->routing.ids, bytes, sizeof(cl_int), "expert choice: ids"));
    TRY(moecl_buffer_check(context, call->routing.weights, bytes, size, "expert choice: weights"));
    TRY(moecl_buffer_check(context, call->workspace, workspace_bytes, sizeof(cl_uint), "expert choice: workspace"));
out:
    return status;
}

moecl_status moecl_expert_choice(moecl_context *context, const moecl_expert_choice_call *call,
                                 cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_expert_choice_kernels kernels = {0};
    struct moecl_chain chain;
    if (!context || !call)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_call(context, call));
    TRY(moecl_expert_choice_kernels_create(context, &kernels));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    if (call->tokens > 0)
        status = moecl_expert_choice_enqueue(&kernels, &chain, call);
    TRY(moecl_chain_end(&chain, status, event));
out:
    moecl_expert_choice_kernels_release(&kernels);
    return status;
}
