/* SPDX-License-Identifier: Apache-2.0 */
/* matrices.c - creating and filling packed weight matrices. */
#include "matrices.h"

#include "device/buffer.h"
#include "device/memory.h"
#include "function.h"

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
    if (options->activated)
        TRY(moecl_function_check(context, &options->function, "matrices"));
out:
    return status;
}

/* Bytes of weights that one buffer may have. */
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
        const size_t bytes = (part.end - part.first) * matrices->group_bytes;
        TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, bytes, "weights", &matrices->parts[i]));
    }
out:
    return status;
}

/* Floats of bias that a group has. */
static size_t bias_length(const moecl_matrices *matrices)
{
    return matrices->shape.gated ? 2 * matrices->options.out : matrices->options.out;
}

static moecl_status allocate_biases(moecl_matrices *matrices)
{
    struct moecl_context *context = matrices->context;
    moecl_status status = MOECL_OK;
    float *zeros = NULL;
    size_t count, bytes;
    if (!matrices->options.biased)
        goto out;
    if (!moecl_size_multiply(matrices->options.groups, bias_length(matrices), &count) ||
        !moecl_size_multiply(count, sizeof(*zeros), &bytes))
        FAIL(&context->error, MOECL_DEVICE_TOO_SMALL, "matrices: the biases do not fit an address space");
    zeros = moecl_allocate(count, sizeof(*zeros));
    if (!zeros)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, bytes, "biases", &matrices->biases));
    TRY(moecl_buffer_write(context, (moecl_buffer){matrices->biases, 0}, bytes, zeros));
out:
    moecl_free(zeros);
    return status;
}

moecl_status moecl_matrices_create_for(struct moecl_gemm *gemm, const moecl_matrices_options *options, size_t pair_rows,
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
    matrices->layout.pairs = gemm->layout.pairs && options->weights == MOECL_BF16;
    matrices->pair_rows = pair_rows;
    matrices->shape =
        (struct moecl_group_shape){options->out, options->in, moecl_matrices_gated(options), options->weights};
    if (pair_rows > 0)
        TRY(gemm->variant->prepare(gemm, options, false));
    if (pair_rows != MOECL_NEVER_IN_PAIRS)
        TRY(gemm->variant->prepare(gemm, options, true));
    TRY(allocate_parts(matrices));
    TRY(allocate_biases(matrices));
    *created = matrices;
    matrices = NULL;
out:
    moecl_matrices_destroy(matrices);
    return status;
}

bool moecl_matrices_in_pairs(const moecl_matrices *matrices, size_t rows)
{
    return matrices->pair_rows != MOECL_NEVER_IN_PAIRS && rows >= matrices->pair_rows * matrices->options.groups;
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
    TRY(moecl_matrices_create_for(gemm, options, MOECL_NEVER_IN_PAIRS, matrices));
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
    moecl_buffer_release(matrices->biases);
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

enum moecl_form moecl_form_of(const moecl_matrices *matrices, moecl_product product)
{
    if (matrices->options.activated && product == MOECL_PRODUCT_ACTIVATED)
        return MOECL_FORM_ACTIVATED_ROWS;
    return matrices->shape.gated ? MOECL_FORM_LINEAR : MOECL_FORM_ROWS;
}

size_t moecl_matrices_bytes(const moecl_matrices *matrices)
{
    return matrices ? matrices->options.groups * matrices->group_bytes : 0;
}

/* Where a group lies. */
static moecl_buffer group_buffer(const moecl_matrices *matrices, size_t group)
{
    const struct moecl_part part = moecl_matrices_part(matrices, group / matrices->groups_a_part);
    return moecl_buffer_at(part.buffer, (group - part.first) * matrices->group_bytes);
}

/* ------------------------------------------------------------------------------------------------- weights -- */

/* Packs a whole group straight into the device's memory as the host sees it: on a CPU no byte is copied twice. */
static moecl_status set_mapped(moecl_matrices *matrices, size_t group, const moecl_group_weights *weights)
{
    struct moecl_context *context = matrices->context;
    const moecl_buffer buffer = group_buffer(matrices, group);
    moecl_status status = MOECL_OK;
    void *mapped;
    TRY(moecl_buffer_map(context, buffer, matrices->group_bytes, &mapped));
    moecl_layout_pack(&matrices->layout, &matrices->shape, 0, &weights->matrix, &weights->up, mapped);
    TRY(moecl_buffer_unmap(context, buffer, mapped));
out:
    return status;
}

/* Packs in host memory; where rows of others are in the group, it is read first. */
static moecl_status set_copied(moecl_matrices *matrices, size_t group, size_t first_row,
                               const moecl_group_weights *weights)
{
    struct moecl_context *context = matrices->context;
    const moecl_buffer buffer = group_buffer(matrices, group);
    moecl_status status = MOECL_OK;
    void *copy = moecl_allocate(1, matrices->group_bytes);
    if (!copy)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    if (weights->matrix.rows != matrices->options.out)
        TRY(moecl_buffer_read(context, buffer, matrices->group_bytes, copy));
    moecl_layout_pack(&matrices->layout, &matrices->shape, first_row, &weights->matrix, &weights->up, copy);
    TRY(moecl_buffer_write(context, buffer, matrices->group_bytes, copy));
out:
    moecl_free(copy);
    return status;
}

moecl_buffer moecl_matrices_bias(const moecl_matrices *matrices, size_t group)
{
    if (!matrices->biases)
        return (moecl_buffer){0};
    return (moecl_buffer){matrices->biases, group * bias_length(matrices) * sizeof(cl_float)};
}

static moecl_status write_bias(moecl_matrices *matrices, moecl_buffer buffer, const moecl_matrix *bias)
{
    struct moecl_context *context = matrices->context;
    moecl_status status = MOECL_OK;
    float *values = moecl_allocate(bias->columns, sizeof(*values));
    if (!values)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "matrices: out of memory");
    moecl_matrix_read(bias, MOECL_F32, values);
    TRY(moecl_buffer_write(context, buffer, bias->columns * sizeof(*values), values));
out:
    moecl_free(values);
    return status;
}

moecl_status moecl_matrices_set_bias(moecl_matrices *matrices, size_t group, size_t first_row, const moecl_matrix *bias,
                                     const moecl_matrix *up_bias)
{
    const moecl_buffer buffer = moecl_buffer_at(moecl_matrices_bias(matrices, group), first_row * sizeof(cl_float));
    moecl_status status = MOECL_OK;
    TRY(write_bias(matrices, buffer, bias));
    if (up_bias)
        TRY(write_bias(matrices, moecl_buffer_at(buffer, matrices->options.out * sizeof(cl_float)), up_bias));
out:
    return status;
}

moecl_status moecl_matrices_set_rows(moecl_matrices *matrices, size_t group, size_t first_row,
                                     const moecl_group_weights *weights)
{
    const bool whole = weights->matrix.rows == matrices->options.out;
    moecl_status status = MOECL_OK;
    if (whole && matrices->context->info.type == CL_DEVICE_TYPE_CPU)
        TRY(set_mapped(matrices, group, weights));
    else
        TRY(set_copied(matrices, group, first_row, weights));
    if (weights->bias.data)
        TRY(moecl_matrices_set_bias(matrices, group, first_row, &weights->bias,
                                    weights->up_bias.data ? &weights->up_bias : NULL));
out:
    return status;
}

/* A matrix is [rows, columns] where the options have it, else it is not there. */
static moecl_status check_given(const moecl_matrices *matrices, bool wanted, const moecl_matrix *matrix, size_t rows,
                                size_t columns, const char *what)
{
    struct moecl_context *context = matrices->context;
    moecl_status status = MOECL_OK;
    if (wanted)
        TRY(moecl_matrix_check(context, matrix, rows, columns, what));
    else if (matrix->data)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: %s is given, which the product does not have", what);
out:
    return status;
}

moecl_status moecl_matrices_set(moecl_matrices *matrices, size_t group, const moecl_group_weights *weights)
{
    moecl_status status = MOECL_OK;
    if (!matrices || !weights)
        return MOECL_INVALID_ARGUMENT;
    struct moecl_context *context = matrices->context;
    const moecl_matrices_options *options = &matrices->options;
    const bool gated = matrices->shape.gated, biased = options->biased;
    if (group >= options->groups)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "matrices: group %zu of %zu", group, options->groups);
    TRY(check_given(matrices, true, &weights->matrix, options->out, options->in, gated ? "gate" : "matrix"));
    TRY(check_given(matrices, gated, &weights->up, options->out, options->in, "up"));
    TRY(check_given(matrices, biased, &weights->bias, 1, options->out, gated ? "gate's bias" : "bias"));
    TRY(check_given(matrices, gated && biased, &weights->up_bias, 1, options->out, "up's bias"));
    TRY(moecl_matrices_set_rows(matrices, group, 0, weights));
out:
    return status;
}
