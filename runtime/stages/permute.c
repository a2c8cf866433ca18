/* SPDX-License-Identifier: Apache-2.0 */
/* permute.c - launches cl/permute.cl, which has the algorithm. */
#include "permute.h"

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"
#include "flag.h"

/* Assignments are counted in chunks: short ones give parallel work, many of them cost memory. */
enum { SHORTEST_CHUNK = 64, MOST_CHUNKS = 1024 };

static size_t chunk_length(size_t assignments)
{
    const size_t length = moecl_divide_up(assignments, MOST_CHUNKS);
    return length > SHORTEST_CHUNK ? length : SHORTEST_CHUNK;
}

/* Room for at least as many chunks as there are, and never less for more assignments: a workspace made for many tokens
 * serves fewer. */
static size_t counts_bytes(size_t assignments, size_t experts)
{
    const size_t chunks = moecl_divide_up(assignments, SHORTEST_CHUNK);
    return moecl_round_up((chunks < MOST_CHUNKS ? chunks : MOST_CHUNKS) * experts * sizeof(cl_uint), 256);
}

size_t moecl_permute_workspace_size(size_t tokens, size_t top_k, size_t experts)
{
    size_t assignments;
    if (!moecl_size_multiply(tokens, top_k, &assignments) || assignments > INT32_MAX || experts > MOECL_MAX_EXPERTS)
        return 0;
    return counts_bytes(assignments, experts) + moecl_round_up(experts * sizeof(cl_uint), 256);
}

moecl_status moecl_permute_kernels_create(struct moecl_context *context, struct moecl_permute_kernels *kernels)
{
    moecl_status status = MOECL_OK;
    *kernels = (struct moecl_permute_kernels){0};
    TRY(moecl_kernel_create(context, "permute.cl", NULL, "permute_count", &kernels->count));
    TRY(moecl_kernel_create(context, "permute.cl", NULL, "permute_scan", &kernels->scan));
    TRY(moecl_kernel_create(context, "permute.cl", NULL, "permute_offsets", &kernels->offsets));
    TRY(moecl_kernel_create(context, "permute.cl", NULL, "permute_scatter", &kernels->scatter));
    TRY(moecl_kernel_create(context, "permute.cl", NULL, "permute_few", &kernels->few));
out:
    if (status != MOECL_OK)
        moecl_permute_kernels_release(kernels);
    return status;
}

void moecl_permute_kernels_release(struct moecl_permute_kernels *kernels)
{
    cl_kernel *const all[] = {&kernels->count, &kernels->scan, &kernels->offsets, &kernels->scatter, &kernels->few};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (*all[i])
            clReleaseKernel(*all[i]);
        *all[i] = NULL;
    }
}

/* All in one launch. */
static moecl_status enqueue_few(const struct moecl_permute_kernels *kernels, struct moecl_chain *chain,
                                const struct moecl_permute_call *call)
{
    const size_t one = 1;
    const moecl_permutation *permutation = &call->permutation;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(call->ids),
        ARGUMENT_U32(call->tokens * call->slots),
        ARGUMENT_U32(call->experts),
        ARGUMENT_U32(call->outputs),
        ARGUMENT_U32(call->row_capacity),
        ARGUMENT_BUFFER(call->workspace),
        ARGUMENT_BUFFER(permutation->offsets),
        ARGUMENT_BUFFER(permutation->assignments),
        ARGUMENT_BUFFER(permutation->rows),
        ARGUMENT_BUFFER(call->flag.memory ? call->flag : call->workspace),
        ARGUMENT_U32(call->flag.memory ? MOECL_FLAG_BAD_EXPERT : 0),
    };
    return moecl_launch(chain, kernels->few, 1, &one, NULL, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

moecl_status moecl_permute_enqueue(const struct moecl_permute_kernels *kernels, struct moecl_chain *chain,
                                   const struct moecl_permute_call *call)
{
    const size_t assignments = call->tokens * call->slots, length = chunk_length(assignments), one = 1;
    const size_t chunks = moecl_divide_up(assignments, length), experts = call->experts;
    const moecl_permutation *permutation = &call->permutation;
    const moecl_buffer counts = call->workspace;
    const moecl_buffer totals = moecl_buffer_at(call->workspace, counts_bytes(assignments, experts));
    moecl_status status = MOECL_OK;
    if (chunks == 1)
        return enqueue_few(kernels, chain, call);

    const struct moecl_argument count[] = {ARGUMENT_BUFFER(call->ids), ARGUMENT_U32(assignments), ARGUMENT_U32(length),
                                           ARGUMENT_U32(experts), ARGUMENT_BUFFER(counts)};
    TRY(moecl_launch(chain, kernels->count, 1, &chunks, NULL, count, 5));

    const struct moecl_argument scan[] = {ARGUMENT_U32(chunks), ARGUMENT_U32(experts), ARGUMENT_BUFFER(counts),
                                          ARGUMENT_BUFFER(totals)};
    TRY(moecl_launch(chain, kernels->scan, 1, &experts, NULL, scan, 4));

    const struct moecl_argument offsets[] = {ARGUMENT_U32(experts), ARGUMENT_U32(call->row_capacity),
                                             ARGUMENT_BUFFER(totals), ARGUMENT_BUFFER(permutation->offsets)};
    TRY(moecl_launch(chain, kernels->offsets, 1, &one, NULL, offsets, 4));

    const struct moecl_argument scatter[] = {
        ARGUMENT_BUFFER(call->ids),
        ARGUMENT_U32(assignments),
        ARGUMENT_U32(length),
        ARGUMENT_U32(experts),
        ARGUMENT_U32(call->outputs),
        ARGUMENT_U32(call->row_capacity),
        ARGUMENT_BUFFER(counts),
        ARGUMENT_BUFFER(permutation->offsets),
        ARGUMENT_BUFFER(permutation->assignments),
        ARGUMENT_BUFFER(permutation->rows),
        ARGUMENT_BUFFER(call->flag.memory ? call->flag : totals),
        ARGUMENT_U32(call->flag.memory ? MOECL_FLAG_BAD_EXPERT : 0),
    };
    TRY(moecl_launch(chain, kernels->scatter, 1, &chunks, NULL, scatter, sizeof(scatter) / sizeof(scatter[0])));
out:
    return status;
}

static moecl_status check_call(moecl_context *context, size_t tokens, size_t top_k, size_t experts, moecl_buffer ids,
                               const moecl_permutation *permutation, moecl_buffer workspace)
{
    moecl_status status = MOECL_OK;
    const size_t workspace_bytes = moecl_permute_workspace_size(tokens, top_k, experts);
    TRY(moecl_context_require_device(context));
    if (!permutation || workspace_bytes == 0 || experts < 1)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "permute: %zu tokens of %zu choices among %zu experts", tokens,
             top_k, experts);
    const size_t bytes = tokens * top_k * sizeof(cl_uint);
    TRY(moecl_buffer_check(context, permutation->offsets, (experts + 1) * sizeof(cl_uint), sizeof(cl_uint),
                           "permute: offsets"));
    if (bytes == 0)
        goto out;
    TRY(moecl_buffer_check(context, ids, bytes, sizeof(cl_int), "permute: ids"));
    TRY(moecl_buffer_check(context, permutation->assignments, bytes, sizeof(cl_uint), "permute: assignments"));
    TRY(moecl_buffer_check(context, permutation->rows, bytes, sizeof(cl_int), "permute: rows"));
    TRY(moecl_buffer_check(context, workspace, workspace_bytes, sizeof(cl_uint), "permute: workspace"));
out:
    return status;
}

moecl_status moecl_permute(moecl_context *context, size_t tokens, size_t top_k, size_t experts, moecl_buffer ids,
                           const moecl_permutation *permutation, moecl_buffer workspace,
                           cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_permute_kernels kernels = {0};
    struct moecl_chain chain;
    if (!context)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_call(context, tokens, top_k, experts, ids, permutation, workspace));
    TRY(moecl_permute_kernels_create(context, &kernels));
    TRY(moecl_chain_begin(&chain, context, num_events_in_wait_list, event_wait_list));
    if (tokens * top_k > 0) {
        const struct moecl_permute_call call = {
            .tokens = tokens,
            .slots = top_k,
            .experts = experts,
            .outputs = experts,
            .row_capacity = tokens * top_k,
            .ids = ids,
            .permutation = *permutation,
            .workspace = workspace,
        };
        status = moecl_permute_enqueue(&kernels, &chain, &call);
    } else {
        const cl_uint zero = 0;
        status = moecl_launch_fill(&chain, permutation->offsets, &zero, sizeof(zero), (experts + 1) * sizeof(zero));
    }
    TRY(moecl_chain_end(&chain, status, event));
out:
    moecl_permute_kernels_release(&kernels);
    return status;
}
