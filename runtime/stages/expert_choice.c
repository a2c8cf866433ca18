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
    char options[96];
    *kernels = (struct moecl_expert_choice_kernels){0};
    snprintf(options, sizeof(options), "-DGROUP=%d -DWEIGHT_SOFTMAX=%d -DWEIGHT_SIGMOID=%d", GROUP,
             MOECL_WEIGHT_SOFTMAX, MOECL_WEIGHT_SIGMOID);
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
    cl_kernel *const all[] = {&kernels->keys, &kernels->select, &kernels->write, &kernels->weigh};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
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
    const moecl_buffer logits = call->logits.memory ? call->logits : call->scores;
    const size_t logits_stride = call->logits.memory ? call->logits_stride : call->stride;
    moecl_status status = MOECL_OK;
    if (capacity == 0)
        return choose_nothing(chain, call);

    const struct moecl_argument key[] = {
        ARGUMENT_U32(tokens),
        ARGUMENT_U32(experts),
        ARGUMENT_BUFFER(call->scores),
        ARGUMENT_U32(call->stride),
        ARGUMENT_BUFFER(logits),
        ARGUMENT_U32(logits_stride),
        ARGUMENT_U32(call->selection_bias.memory != NULL),
        ARGUMENT_BUFFER(bias),
        ARGUMENT_BUFFER(keys),
    };
    TRY(moecl_launch(chain, kernels->keys, 2, by_token, plane, key, sizeof(key) / sizeof(key[0])));
    const struct moecl_argument select[] = {ARGUMENT_U32(tokens), ARGUMENT_U32(capacity), ARGUMENT_BUFFER(keys),
                                            ARGUMENT_BUFFER(cuts)};
    TRY(moecl_launch(chain, kernels->select, 1, items, line, select, 4));
    const struct moecl_argument write[] = {ARGUMENT_U32(tokens),
                                           ARGUMENT_U32(experts),
                                           ARGUMENT_BUFFER(call->scores),
                                           ARGUMENT_U32(call->stride),
                                           ARGUMENT_BUFFER(logits),
                                           ARGUMENT_U32(logits_stride),
                                           ARGUMENT_BUFFER(keys),
                                           ARGUMENT_BUFFER(cuts),
                                           ARGUMENT_BUFFER(call->routing.ids),
                                           ARGUMENT_BUFFER(call->routing.weights)};
    TRY(moecl_launch(chain, kernels->write, 2, by_expert, plane, write, sizeof(write) / sizeof(write[0])));
out:
    return status;
}

moecl_status moecl_choice_weights_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                          size_t tokens, size_t slots, moecl_weight weight, moecl_buffer logits,
                                          size_t stride, moecl_routing routing)
{
    const size_t local[] = {GROUP};
    const struct moecl_argument arguments[] = {
        ARGUMENT_U32(tokens),
        ARGUMENT_U32(slots),
        ARGUMENT_U32(weight),
        ARGUMENT_BUFFER(logits),
        ARGUMENT_U32(stride),
        ARGUMENT_BUFFER(routing.ids),
        ARGUMENT_BUFFER(routing.weights),
    };
    if (weight == MOECL_WEIGHT_SCORE)
        return MOECL_OK;
    return moecl_launch(chain, kernels->weigh, 1, &tokens, local, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

static moecl_status check_call(moecl_context *context, const moecl_expert_choice_call *call)
{
    moecl_status status = MOECL_OK;
    const size_t tokens = call->tokens, experts = call->experts, size = sizeof(cl_float);
    const size_t workspace_bytes = moecl_expert_choice_workspace_size(tokens, experts);
    const size_t bytes = tokens * experts * size;
    TRY(moecl_context_require_device(context));
    if (call->logits.memory && (call->logits_stride < experts || call->logits_stride > INT32_MAX))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "expert choice: logits of %zu experts in rows of %zu", experts,
             call->logits_stride);
    if (workspace_bytes == 0 || call->stride < experts || call->stride > INT32_MAX)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "expert choice: %zu tokens and %zu experts in rows of %zu",
             tokens, experts, call->stride);
    if (call->selection_bias.memory)
        TRY(moecl_buffer_check(context, call->selection_bias, experts * size, size, "expert choice: selection bias"));
    if (tokens == 0)
        goto out;
    TRY(moecl_buffer_check(context, call->scores, ((tokens - 1) * call->stride + experts) * size, size,
                           "expert choice: scores"));
    if (call->logits.memory)
        TRY(moecl_buffer_check(context, call->logits, ((tokens - 1) * call->logits_stride + experts) * size, size,
                               "expert choice: logits"));
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
