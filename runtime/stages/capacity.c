/* SPDX-License-Identifier: Apache-2.0 */
/* capacity.c - how much room an expert has; launches cl/capacity.cl, which has the algorithm. */
#include "capacity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"

/* -------------------------------------------------------------------------------------------------- the room -- */

/* The double nearest to the shortest decimal number that gives `value` when read as a float. */
static double as_written(float value)
{
    enum { ENOUGH = 9 }; /* digits that tell any two floats apart */
    char text[32];
    for (int digits = 1; digits <= ENOUGH; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return strtod(text, NULL);
}

size_t moecl_capacity_rows(const moecl_capacity *capacity, size_t tokens, size_t top_k, size_t experts)
{
    const size_t most = tokens * top_k;
    const double value = as_written(capacity->value);
    double rows = (double)most;
    switch (capacity->kind) {
    case MOECL_CAPACITY_NONE:
        break;
    case MOECL_CAPACITY_FIXED:
        rows = floor(value);
        break;
    case MOECL_CAPACITY_FACTOR:
        rows = ceil((double)most / (double)experts * value);
        break;
    case MOECL_CAPACITY_FRACTION:
        rows = ceil((double)tokens * value);
        break;
    }
    if (!(rows > 0.0))
        return 0;
    return rows < (double)most ? (size_t)rows : most;
}

/* ------------------------------------------------------------------------------------------------- the stage -- */

moecl_status moecl_capacity_kernels_create(struct moecl_context *context, struct moecl_capacity_kernels *kernels)
{
    moecl_status status = MOECL_OK;
    *kernels = (struct moecl_capacity_kernels){0};
    TRY(moecl_kernel_create(context, "capacity.cl", NULL, "capacity_transpose", &kernels->transpose));
    TRY(moecl_kernel_create(context, "capacity.cl", NULL, "capacity_positions", &kernels->positions));
    TRY(moecl_kernel_create(context, "capacity.cl", NULL, "capacity_probabilities", &kernels->probabilities));
    TRY(moecl_permute_kernels_create(context, &kernels->permute));
out:
    if (status != MOECL_OK)
        moecl_capacity_kernels_release(kernels);
    return status;
}

void moecl_capacity_kernels_release(struct moecl_capacity_kernels *kernels)
{
    cl_kernel *const all[] = {&kernels->transpose, &kernels->positions, &kernels->probabilities};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
    moecl_permute_kernels_release(&kernels->permute);
}

/* The workspace, cut up: the permutation's own, its three results, and the queue. Returns the bytes. */
struct parts {
    moecl_buffer permute, queue;
    moecl_permutation permutation;
};

static size_t cut(size_t tokens, size_t slots, size_t experts, moecl_buffer workspace, struct parts *parts)
{
    enum { ALIGNMENT = 256 };
    const size_t each = moecl_round_up(tokens * slots * sizeof(cl_uint), ALIGNMENT);
    const size_t bytes[] = {moecl_permute_workspace_size(tokens, slots, experts), (experts + 1) * sizeof(cl_uint), each,
                            each, each};
    moecl_buffer *const places[] = {&parts->permute, &parts->permutation.offsets, &parts->permutation.assignments,
                                    &parts->permutation.rows, &parts->queue};
    size_t total = 0;
    for (size_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        *places[i] = moecl_buffer_at(workspace, total);
        total += moecl_round_up(bytes[i], ALIGNMENT);
    }
    return total;
}

size_t moecl_capacity_workspace_size(size_t tokens, size_t slots, size_t experts)
{
    struct parts parts;
    if (moecl_permute_workspace_size(tokens, slots, experts) == 0)
        return 0;
    return cut(tokens, slots, experts, (moecl_buffer){0}, &parts);
}

moecl_status moecl_capacity_enqueue(const struct moecl_capacity_kernels *kernels, struct moecl_chain *chain,
                                    const struct moecl_capacity_call *call)
{
    const bool transposed = call->order == MOECL_CAPACITY_ORDER_CHOICE;
    const size_t choices[] = {call->tokens, call->slots}, group[] = {64, 1};
    moecl_status status = MOECL_OK;
    struct parts parts;
    if (call->tokens * call->slots == 0)
        goto out;
    cut(call->tokens, call->slots, call->experts, call->workspace, &parts);
    const moecl_permutation *permutation = &parts.permutation;

    const struct moecl_argument transpose[] = {ARGUMENT_U32(call->tokens), ARGUMENT_U32(call->slots),
                                               ARGUMENT_BUFFER(call->routing.ids), ARGUMENT_BUFFER(parts.queue)};
    if (transposed)
        TRY(moecl_launch(chain, kernels->transpose, 2, choices, group, transpose, 4));
    const struct moecl_permute_call sort = {
        .tokens = call->tokens,
        .slots = call->slots,
        .experts = call->experts,
        .outputs = call->experts,
        .row_capacity = call->tokens * call->slots,
        .ids = transposed ? parts.queue : call->routing.ids,
        .permutation = parts.permutation,
        .workspace = parts.permute,
    };
    TRY(moecl_permute_enqueue(&kernels->permute, chain, &sort));

    const struct moecl_argument positions[] = {
        ARGUMENT_U32(call->tokens),         ARGUMENT_U32(call->slots),
        ARGUMENT_U32(transposed),           ARGUMENT_U32(call->rows),
        ARGUMENT_BUFFER(permutation->rows), ARGUMENT_BUFFER(permutation->offsets),
        ARGUMENT_BUFFER(call->routing.ids), ARGUMENT_BUFFER(call->routing.weights),
    };
    const struct moecl_argument probabilities[] = {
        ARGUMENT_U32(call->experts),
        ARGUMENT_U32(call->rows),
        ARGUMENT_BUFFER(permutation->assignments),
        ARGUMENT_BUFFER(permutation->offsets),
        ARGUMENT_BUFFER(call->routing.ids),
        ARGUMENT_BUFFER(call->routing.weights),
    };
    if (call->order == MOECL_CAPACITY_ORDER_PROBABILITY)
        TRY(moecl_launch(chain, kernels->probabilities, 1, &call->experts, NULL, probabilities, 6));
    else
        TRY(moecl_launch(chain, kernels->positions, 2, choices, group, positions, 8));
out:
    return status;
}
