/* SPDX-License-Identifier: Apache-2.0 */
/* sinkhorn.c - launches cl/sinkhorn.cl, which has the formula. */
#include "sinkhorn.h"

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"

/* A column is summed in chunks of tokens: short ones give parallel work, many of them cost memory. */
enum { SHORTEST_CHUNK = 64, MOST_CHUNKS = 256, GROUP = 64, DEFAULT_ITERATIONS = 10 };

static size_t chunk_length(size_t tokens)
{
    const size_t length = moecl_divide_up(tokens, MOST_CHUNKS);
    return length > SHORTEST_CHUNK ? length : SHORTEST_CHUNK;
}

/* The regions of the workspace, in this order. */
static size_t row_scales_bytes(size_t tokens)
{
    return moecl_round_up(tokens * sizeof(cl_float), 256);
}

static size_t column_scales_bytes(size_t experts)
{
    return moecl_round_up(experts * sizeof(cl_float), 256);
}

/* Room for at least as many chunks as there are, and never less for more tokens. */
static size_t partial_sums_bytes(size_t tokens, size_t experts)
{
    const size_t chunks = moecl_divide_up(tokens, SHORTEST_CHUNK);
    return (chunks < MOST_CHUNKS ? chunks : MOST_CHUNKS) * experts * sizeof(cl_float);
}

size_t moecl_sinkhorn_workspace_size(size_t tokens, size_t experts)
{
    if (tokens > MOECL_MAX_TOKENS || experts < 1 || experts > MOECL_MAX_EXPERTS)
        return 0;
    return row_scales_bytes(tokens) + column_scales_bytes(experts) + partial_sums_bytes(tokens, experts);
}

moecl_status moecl_sinkhorn_kernels_create(struct moecl_context *context, struct moecl_sinkhorn_kernels *kernels)
{
    moecl_status status = MOECL_OK;
    *kernels = (struct moecl_sinkhorn_kernels){0};
    TRY(moecl_kernel_create(context, "sinkhorn.cl", NULL, "sinkhorn_exponentials", &kernels->exponentials));
    TRY(moecl_kernel_create(context, "sinkhorn.cl", NULL, "sinkhorn_rows", &kernels->rows));
    TRY(moecl_kernel_create(context, "sinkhorn.cl", NULL, "sinkhorn_partial_sums", &kernels->partial_sums));
    TRY(moecl_kernel_create(context, "sinkhorn.cl", NULL, "sinkhorn_columns", &kernels->columns));
    TRY(moecl_kernel_create(context, "sinkhorn.cl", NULL, "sinkhorn_keys", &kernels->keys));
out:
    if (status != MOECL_OK)
        moecl_sinkhorn_kernels_release(kernels);
    return status;
}

void moecl_sinkhorn_kernels_release(struct moecl_sinkhorn_kernels *kernels)
{
    cl_kernel *const all[] = {&kernels->exponentials, &kernels->rows, &kernels->partial_sums, &kernels->columns,
                              &kernels->keys};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
}

moecl_status moecl_sinkhorn_enqueue(const struct moecl_sinkhorn_kernels *kernels, struct moecl_chain *chain,
                                    const moecl_sinkhorn_call *call)
{
    const size_t tokens = call->tokens, experts = call->experts, length = chunk_length(tokens);
    const size_t chunks = moecl_divide_up(tokens, length);
    const size_t line[] = {GROUP}, plane[] = {GROUP, 1}, columns[] = {experts, chunks}, elements[] = {experts, tokens};
    const size_t iterations = call->iterations > 0 ? call->iterations : DEFAULT_ITERATIONS;
    const moecl_buffer row_scales = call->workspace;
    const moecl_buffer column_scales = moecl_buffer_at(row_scales, row_scales_bytes(tokens));
    const moecl_buffer partial_sums = moecl_buffer_at(column_scales, column_scales_bytes(experts));
    const cl_float one = 1.0f;
    moecl_status status = MOECL_OK;

    const struct moecl_argument exponentials[] = {ARGUMENT_U32(tokens), ARGUMENT_U32(experts),
                                                  ARGUMENT_BUFFER(call->logits), ARGUMENT_U32(call->stride),
                                                  ARGUMENT_BUFFER(call->keys)};
    TRY(moecl_launch(chain, kernels->exponentials, 1, &tokens, line, exponentials, 5));
    TRY(moecl_launch_fill(chain, column_scales, &one, sizeof(one), experts * sizeof(one)));

    const struct moecl_argument row[] = {ARGUMENT_U32(tokens), ARGUMENT_U32(experts), ARGUMENT_BUFFER(call->keys),
                                         ARGUMENT_BUFFER(column_scales), ARGUMENT_BUFFER(row_scales)};
    const struct moecl_argument partial[] = {ARGUMENT_U32(tokens),        ARGUMENT_U32(experts),
                                             ARGUMENT_U32(length),        ARGUMENT_BUFFER(call->keys),
                                             ARGUMENT_BUFFER(row_scales), ARGUMENT_BUFFER(partial_sums)};
    const struct moecl_argument column[] = {ARGUMENT_U32(experts), ARGUMENT_U32(chunks), ARGUMENT_BUFFER(partial_sums),
                                            ARGUMENT_BUFFER(column_scales)};
    for (size_t i = 0; i < iterations; i++) {
        TRY(moecl_launch(chain, kernels->rows, 1, &tokens, line, row, 5));
        TRY(moecl_launch(chain, kernels->partial_sums, 2, columns, plane, partial, 6));
        TRY(moecl_launch(chain, kernels->columns, 1, &experts, line, column, 4));
    }

    const struct moecl_argument keys[] = {ARGUMENT_U32(tokens),          ARGUMENT_U32(experts),
                                          ARGUMENT_BUFFER(call->logits), ARGUMENT_U32(call->stride),
                                          ARGUMENT_BUFFER(row_scales),   ARGUMENT_BUFFER(column_scales),
                                          ARGUMENT_BUFFER(call->keys)};
    TRY(moecl_launch(chain, kernels->keys, 2, elements, plane, keys, 7));
out:
    return status;
}

static moecl_status check_call(moecl_context *context, const moecl_sinkhorn_call *call)
{
    moecl_status status = MOECL_OK;
    const size_t tokens = call->tokens, experts = call->experts, size = sizeof(cl_float);
    const size_t workspace_bytes = moecl_sinkhorn_workspace_size(tokens, experts);
    TRY(moecl_context_require_device(context));
    if (workspace_bytes == 0 || call->stride < experts || call->stride > INT32_MAX)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "sinkhorn: %zu tokens and %zu experts in rows of %zu", tokens,
             experts, call->stride);
    if (tokens == 0)
        goto out;
    TRY(moecl_buffer_check(context, call->logits, ((tokens - 1) * call->stride + experts) * size, size,
                           "sinkhorn: logits"));
    TRY(moecl_buffer_check(context, call->keys, tokens * experts * size, size, "sinkhorn: keys"));
    TRY(moecl_buffer_check(context, call->workspace, workspace_bytes, size, "sinkhorn: workspace"));
out:
    return status;
}

moecl_status moecl_sinkhorn(moecl_context *context, const moecl_sinkhorn_call *call, cl_uint num_events_in_wait_list,
                            const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_sinkhorn_kernels kernels = {0};
    struct moecl_chain chain;
    if (!context || !call)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_call(context, call));
    TRY(moecl_sinkhorn_kernels_create(context, &kernels));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    if (call->tokens > 0)
        status = moecl_sinkhorn_enqueue(&kernels, &chain, call);
    TRY(moecl_chain_end(&chain, status, event));
out:
    moecl_sinkhorn_kernels_release(&kernels);
    return status;
}
