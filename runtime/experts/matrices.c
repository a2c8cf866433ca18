/* SPDX-License-Identifier: Apache-2.0 */
/* matrices.c - creating and filling packed weight matrices. */
#include "matrices.h"

#include "device/buffer.h"
#include "device/memory.h"

static moecl_status check_options(struct moecl_context *context, const moecl_matrices_options *options)
{
    moecl_status status = MOECL_OK;
    if (options->groups < 1 || options->groups > MOECL_MAX_EXPERTS)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: %zu groups, must be 1 to %d", options->groups,
             MOECL_MAX_EXPERTS);
    if (options->out < 1 || options->in < 1 || options->out > INT32_MAX / 2 || options->in > INT32_MAX / 2)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: [%zu,%zu] is no matrix shape", options->out,
             options->in);
    if (!moecl_type_size(options->weights) || !moecl_type_size(options->activations))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: an unknown type");
out:
    return status;
}

/* Bytes that one buffer of weights may have. */
static size_t largest_part(const moecl_matrices *matrices)
{
    const uint64_t allocation = matrices->context->info.max_allocation;
    const size_t elements = matrices->gemm->variant->largest_part;
    size_t bytes = allocation < SIZE_MAX ? (size_t)allocation : SIZE_MAX;
    if (elements && elements < bytes / moecl_type_size(matrices->options.weights))
        bytes = elements * moecl_type_size(matrices->options.weights);
    return bytes;
}

static moecl_status allocate_parts(moecl_matrices *matrices)
{
    struct moecl_context *context = matrices->context;
    const size_t groups = matrices->options.groups;
    moecl_status status = MOECL_OK;
    size_t total;
    if (!moecl_layout_group_bytes(&matrices->layout, &matrices->shape, &matrices->group_bytes) ||
        !moecl_size_multiply(matrices->group_bytes, groups, &total))
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL, "matrices: %zu of [%zu,%zu] do not fit an address space", groups,
             matrices->options.out, matrices->options.in);
    const size_t limit = largest_part(matrices);
    if (matrices->group_bytes > limit)
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL,
             "one group's weights [%zu,%zu] need %zu bytes; the largest buffer on this device has %zu",
             matrices->options.out, matrices->options.in, matrices->group_bytes, limit);
    if (total > context->info.global_memory)
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL, "the weights need %zu bytes; the device has %llu", total,
             (unsigned long long)context->info.global_memory);
    matrices->groups_a_part = limit / matrices->group_bytes;
    if (matrices->groups_a_part > groups)
        matrices->groups_a_part = groups;
    const size_t count = moecl_divide_up(groups, matrices->groups_a_part);
    matrices->parts = moecl_allocate(count, sizeof(*matrices->parts));
    if (!matrices->parts)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    matrices->part_count = count;
    for (size_t i = 0; i < count; i++) {
        const struct moecl_part part = moecl_matrices_part(matrices, i);
        TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, (part.end - part.first) * matrices->group_bytes, "weights",
                                &matrices->parts[i]));
    }
out:
    return status;
}

moecl_status moecl_matrices_create_for(struct moecl_gemm *gemm, const moecl_matrices_options *options,
                                       moecl_matrices **created)
{
    struct moecl_context *context = gemm->context;
    moecl_status status = MOECL_OK;
    moecl_matrices *matrices = NULL;
    *created = NULL;
    TRY(check_options(context, options));
    matrices = moecl_allocate(1, sizeof(*matrices));
    if (!matrices)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    matrices->context = context;
    matrices->gemm = gemm;
    matrices->options = *options;
    matrices->options.variant = gemm->variant->name;
    matrices->options.parameters = NULL;
    matrices->layout = gemm->layout;
    matrices->shape = (struct moecl_group_shape){options->out, options->in, options->activated, options->weights};
    TRY(gemm->variant->prepare(gemm, options->weights, options->activations));
    TRY(allocate_parts(matrices));
    *created = matrices;
    matrices = NULL;
out:
    moecl_matrices_destroy(matrices);
    return status;
}

moecl_status moecl_matrices_create(moecl_context *context, const moecl_matrices_options *options,
                                   moecl_matrices **matrices)
{
    moecl_status status = MOECL_OK;
    struct moecl_gemm *gemm = NULL;
    if (!context || !options || !matrices)
        return MOECL_INVALID_ARGUMENT;
    *matrices = NULL;
    TRY(moecl_context_require_device(context));
    TRY(moecl_gemm_create(context, options->variant, options->parameters, &gemm));
    TRY(moecl_matrices_create_for(gemm, options, matrices));
    (*matrices)->owns_gemm = true;
    gemm = NULL;
out:
    moecl_gemm_destroy(gemm);
    return status;
}

void moecl_matrices_destroy(moecl_matrices *matrices)
{
    if (!matrices)
        return;
    for (size_t i = 0; i < matrices->part_count; i++)
        moecl_buffer_release(matrices->parts[i]);
    moecl_free(matrices->parts);
    if (matrices->owns_gemm)
        moecl_gemm_destroy(matrices->gemm);
    moecl_free(matrices);
}

const moecl_matrices_options *moecl_matrices_describe(const moecl_matrices *matrices)
{
    return matrices ? &matrices->options : NULL;
}

struct moecl_part moecl_matrices_part(const moecl_matrices *matrices, size_t index)
{
    struct moecl_part part = {.first = index * matrices->groups_a_part, .buffer = {matrices->parts[index], 0}};
    part.end = part.first + matrices->groups_a_part;
    if (part.end > matrices->options.groups)
        part.end = matrices->options.groups;
    return part;
}

size_t moecl_matrices_bytes(const moecl_matrices *matrices)
{
    return matrices ? matrices->options.groups * matrices->group_bytes : 0;
}

moecl_status moecl_matrix_check(struct moecl_context *context, const moecl_matrix *matrix, size_t rows, size_t columns,
                                const char *what)
{
    moecl_status status = MOECL_OK;
    if (!matrix || !matrix->data)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: no data", what);
    if (!moecl_type_size(matrix->type))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: unknown type %d", what, (int)matrix->type);
    if (matrix->rows != rows || matrix->columns != columns)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "%s: is [%zu,%zu], must be [%zu,%zu]", what, matrix->rows,
             matrix->columns, rows, columns);
out:
    return status;
}

/* Where a group lies. */
static moecl_buffer group_buffer(const moecl_matrices *matrices, size_t group)
{
    const struct moecl_part part = moecl_matrices_part(matrices, group / matrices->groups_a_part);
    return moecl_buffer_at(part.buffer, (group - part.first) * matrices->group_bytes);
}

/* Packs a whole group straight into the device's memory as the host sees it: on a CPU no byte is copied twice. */
static moecl_status set_mapped(moecl_matrices *matrices, size_t group, const moecl_matrix *matrix,
                               const moecl_matrix *up)
{
    struct moecl_context *context = matrices->context;
    const moecl_buffer buffer = group_buffer(matrices, group);
    moecl_status status = MOECL_OK;
    void *mapped;
    TRY(moecl_buffer_map(context, buffer, matrices->group_bytes, &mapped));
    moecl_layout_pack(&matrices->layout, &matrices->shape, 0, matrix, up, mapped);
    TRY(moecl_buffer_unmap(context, buffer, mapped));
out:
    return status;
}

moecl_status moecl_matrices_set_rows(moecl_matrices *matrices, size_t group, size_t first_row,
                                     const moecl_matrix *matrix, const moecl_matrix *up)
{
    struct moecl_context *context = matrices->context;
    const moecl_buffer buffer = group_buffer(matrices, group);
    const bool whole = matrix->rows == matrices->options.out;
    moecl_status status = MOECL_OK;
    void *copy = NULL;
    if (whole && context->info.type == CL_DEVICE_TYPE_CPU)
        return set_mapped(matrices, group, matrix, up);
    copy = moecl_allocate(1, matrices->group_bytes);
    if (!copy)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    if (!whole)
        TRY(moecl_buffer_read(context, buffer, matrices->group_bytes, copy));
    moecl_layout_pack(&matrices->layout, &matrices->shape, first_row, matrix, up, copy);
    TRY(moecl_buffer_write(context, buffer, matrices->group_bytes, copy));
out:
    moecl_free(copy);
    return status;
}

moecl_status moecl_matrices_set(moecl_matrices *matrices, size_t group, const moecl_group_weights *weights)
{
    moecl_status status = MOECL_OK;
    if (!matrices || !weights)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_context *context = matrices->context;
    const moecl_matrices_options *options = &matrices->options;
    if (group >= options->groups)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: group %zu of %zu", group, options->groups);
    TRY(moecl_matrix_check(context, &weights->matrix, options->out, options->in,
                           options->activated ? "gate" : "matrix"));
    if (options->activated)
        TRY(moecl_matrix_check(context, &weights->up, options->out, options->in, "up"));
    else if (weights->up.data)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: an up matrix for a product that is not gated");
    TRY(moecl_matrices_set_rows(matrices, group, 0, &weights->matrix, options->activated ? &weights->up : NULL));
out:
    return status;
}
