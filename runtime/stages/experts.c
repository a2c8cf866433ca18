/* SPDX-License-Identifier: Apache-2.0 */
/* experts.c - the expert stage by itself: one grouped GEMM with the caller's rows and offsets, by the matrices'
 * variant.
 *
 * Workspace: [tile map | packed input | scratch], as the variant sizes them. */
#include <moecl/stages.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "experts/matrices.h"

struct workspace {
    size_t map, packed, scratch, total; /* offsets of the parts, and their sum */
};

static struct workspace workspace_of(const moecl_matrices *matrices, size_t rows)
{
    const struct moecl_gemm *gemm = matrices->gemm;
    const struct moecl_variant *variant = gemm->variant;
    const size_t groups = matrices->options.groups;
    struct workspace workspace = {0};
    workspace.packed = moecl_round_up(variant->map_bytes(gemm, groups, rows), 256);
    workspace.scratch =
        workspace.packed + moecl_round_up(variant->packed_bytes(gemm, groups, rows, matrices->options.in), 256);
    workspace.total = workspace.scratch + moecl_round_up(variant->scratch_bytes(gemm, matrices, rows), 256);
    return workspace;
}

/* Rows times columns small enough that no size below overflows, padding included. */
static bool rows_fit(const moecl_matrices *matrices, size_t rows)
{
    const size_t widest =
        matrices->options.in > 2 * matrices->options.out ? matrices->options.in : 2 * matrices->options.out;
    return rows <= INT32_MAX / 2 && rows + 64 * matrices->options.groups < SIZE_MAX / 64 / widest;
}

size_t moecl_grouped_gemm_workspace_size(const moecl_matrices *matrices, size_t rows)
{
    if (!matrices || !rows_fit(matrices, rows))
        return 0;
    return workspace_of(matrices, rows).total;
}

static moecl_status check_call(const moecl_matrices *matrices, const moecl_grouped_gemm_call *call)
{
    struct moecl_context *context = matrices->context;
    const moecl_matrices_options *options = &matrices->options;
    const size_t columns =
        moecl_form_of(matrices, call->product) == MOECL_FORM_LINEAR ? 2 * options->out : options->out;
    moecl_status status = MOECL_OK;
    if (!rows_fit(matrices, call->rows))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "grouped GEMM: %zu rows are too many", call->rows);
    if (call->input_type != options->activations)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT,
             "grouped GEMM: the input's type is %s, the matrices were made for %s", moecl_type_name(call->input_type),
             moecl_type_name(options->activations));
    TRY(moecl_buffer_check(context, call->offsets, (options->groups + 1) * sizeof(cl_uint), sizeof(cl_uint),
                           "grouped GEMM: offsets"));
    if (call->rows == 0)
        goto out;
    const size_t size = moecl_type_size(call->input_type);
    /* Which input rows the assignments name is the caller's word; one there must be. */
    TRY(moecl_buffer_check(context, call->input, (call->assignments.memory ? 1 : call->rows) * options->in * size, size,
                           "grouped GEMM: input"));
    if (call->assignments.memory)
        TRY(moecl_buffer_check(context, call->assignments, call->rows * sizeof(cl_uint), sizeof(cl_uint),
                               "grouped GEMM: assignments"));
    /* Of the weights too, what assignments name is the caller's word. */
    if (call->row_weights.memory)
        TRY(moecl_buffer_check(context, call->row_weights,
                               (call->assignments.memory ? 1 : call->rows) * sizeof(cl_float), sizeof(cl_float),
                               "grouped GEMM: row weights"));
    TRY(moecl_buffer_check(context, call->output, call->rows * columns * sizeof(cl_float), sizeof(cl_float),
                           "grouped GEMM: output"));
    TRY(moecl_buffer_check(context, call->workspace, workspace_of(matrices, call->rows).total, 16,
                           "grouped GEMM: workspace"));
out:
    return status;
}

static moecl_status enqueue(const moecl_matrices *matrices, struct moecl_chain *chain,
                            const moecl_grouped_gemm_call *call)
{
    struct moecl_gemm *gemm = matrices->gemm;
    const struct workspace workspace = workspace_of(matrices, call->rows);
    moecl_status status = MOECL_OK;
    struct moecl_grouping grouping = {
        .groups = matrices->options.groups,
        .rows = call->rows,
        .offsets = call->offsets,
        .map = moecl_buffer_at(call->workspace, workspace.map),
    };
    const struct moecl_pack pack = {
        .x = call->input,
        .type = call->input_type,
        .depth = matrices->options.in,
        .assignments = call->assignments,
        .divisor = !call->assignments.memory ? 0
                   : call->divisor           ? call->divisor
                                             : 1,
        .row_weights = call->row_weights,
        .packed = moecl_buffer_at(call->workspace, workspace.packed),
        .pairs = moecl_matrices_in_pairs(matrices, call->rows),
    };
    const struct moecl_multiply multiply = {
        .matrices = matrices,
        .packed = pack.packed,
        .form = moecl_form_of(matrices, call->product),
        .output = call->output,
        .scratch = moecl_buffer_at(call->workspace, workspace.scratch),
    };
    TRY(gemm->variant->group(gemm, chain, &grouping));
    TRY(gemm->variant->pack(gemm, chain, &grouping, &pack));
    TRY(gemm->variant->multiply(gemm, chain, &grouping, &multiply));
out:
    return status;
}

moecl_status moecl_grouped_gemm(moecl_matrices *matrices, const moecl_grouped_gemm_call *call,
                                cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event)
{
    moecl_status status = MOECL_OK;
    struct moecl_chain chain;
    if (!matrices || !call)
        return MOECL_INVALID_ARGUMENT;
    TRY(check_call(matrices, call));
    TRY(moecl_chain_begin(&chain, matrices->context, num_events_in_wait_list, event_wait_list));
    TRY(moecl_chain_end(&chain, call->rows ? enqueue(matrices, &chain, call) : MOECL_OK, event));
out:
    return status;
}
