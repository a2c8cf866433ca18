/* SPDX-License-Identifier: Apache-2.0 */
/* clblast.c - the variant on CLBlast: a plain Gemm per expert that has rows, or one GemmStridedBatched over a batch in
 * which every expert has the same number of rows, padded with zeros (cl/clblast.cl has the layouts).
 *
 * CLBlast wants its shapes on the host, so this variant reads the experts' row counts back: it blocks. It multiplies in
 * f32; other storage types are converted, one expert at a time. Its kernels index with int. */
#include <clblast_c.h>
#include <stdio.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"
#include "function.h"
#include "matrices.h"
#include "variant.h"

enum { COLUMNS = 16 }; /* a work-item's, of cl/clblast.cl */

struct clblast {
    struct moecl_gemm gemm;
    bool converts; /* serves weights that are not f32: no batches, since the whole batch would have to be converted */
    cl_kernel gather[3];                  /* by moecl_type of the input; NULL: not prepared */
    cl_kernel convert[3];                 /* by moecl_type of the weights; f32 needs none */
    struct moecl_function_kernel *finish; /* the products' type does not matter: f32 */
};

static void fit(const moecl_device_info *info, unsigned *values)
{
    (void)info, (void)values;
}

static void destroy(struct moecl_gemm *gemm)
{
    struct clblast *clblast = (struct clblast *)gemm;
    moecl_function_kernels_release(&clblast->finish);
    for (size_t type = 0; type < 3; type++) {
        if (clblast->gather[type])
            clReleaseKernel(clblast->gather[type]);
        if (clblast->convert[type])
            clReleaseKernel(clblast->convert[type]);
    }
    moecl_free(clblast);
}

static moecl_status create_kernel(const struct moecl_gemm *gemm, const char *name,
                                  const moecl_matrices_options *product, cl_kernel *kernel)
{
    const moecl_expert_function function = moecl_function_of(product);
    char options[64 + MOECL_FUNCTION_OPTIONS], specialised[MOECL_FUNCTION_OPTIONS];
    moecl_function_build_options(&function, specialised);
    snprintf(options, sizeof(options), "-DWEIGHT_TYPE=%s -DACTIVATION_TYPE=%s %s", moecl_type_name(product->weights),
             moecl_type_name(product->activations), specialised);
    return moecl_kernel_create(gemm->context, "activation.cl clblast.cl", options, name, kernel);
}

/* What a product's `finish` is listed under. */
static moecl_matrices_options finish_key(const moecl_matrices_options *options)
{
    moecl_matrices_options key = *options;
    key.weights = MOECL_F32;
    return key;
}

/* CLBlast keeps the programs that it built, and with them the OpenCL context, until the process ends, when the driver
 * may be gone. Other contexts' are built again. */
static void forget(void)
{
    CLBlastClearCache();
}

static moecl_status create(struct moecl_context *context, const unsigned *values, struct moecl_gemm **created)
{
    (void)values;
    moecl_status status = MOECL_OK;
    struct clblast *clblast = moecl_allocate(1, sizeof(*clblast));
    if (!clblast)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "clblast: out of memory");
    clblast->gemm.variant = &moecl_variant_clblast;
    clblast->gemm.context = context;
    clblast->gemm.layout = (struct moecl_layout){MOECL_LAYOUT_ROWS, 0, false};
    context->forget = forget;
    *created = &clblast->gemm;
out:
    return status;
}

static moecl_status prepare(struct moecl_gemm *gemm, const moecl_matrices_options *options, bool in_pairs)
{
    (void)in_pairs;
    struct clblast *clblast = (struct clblast *)gemm;
    const moecl_matrices_options key = finish_key(options);
    const moecl_type weights = options->weights, input = options->activations;
    cl_kernel finish = NULL;
    moecl_status status = MOECL_OK;
    if (!clblast->gather[input])
        TRY(create_kernel(gemm, "clblast_gather", options, &clblast->gather[input]));
    if (weights != MOECL_F32 && !clblast->convert[weights])
        TRY(create_kernel(gemm, "clblast_convert", options, &clblast->convert[weights]));
    if (!moecl_function_kernel_find(clblast->finish, &key)) {
        TRY(create_kernel(gemm, "clblast_finish", options, &finish));
        TRY(moecl_function_kernel_add(gemm->context, &clblast->finish, &key, finish));
        finish = NULL;
    }
    clblast->converts = clblast->converts || weights != MOECL_F32;
out:
    if (finish)
        clReleaseKernel(finish);
    return status;
}

/* --------------------------------------------------------------------------------------------------- sizes -- */

/* A batch is only padded to at most this many times the rows. */
enum { MAX_PADDING = 2 };

static size_t padded_rows(size_t groups, size_t rows)
{
    return groups > 1 ? MAX_PADDING * rows : rows;
}

static size_t map_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows)
{
    (void)gemm, (void)groups, (void)rows;
    return 0;
}

static size_t packed_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows, size_t depth)
{
    (void)gemm;
    return padded_rows(groups, rows) * depth * sizeof(cl_float);
}

/* Columns of CLBlast's product: gate's and up's are one matrix of 2N rows. */
static size_t product_columns(const moecl_matrices *matrices)
{
    return matrices->shape.gated ? 2 * matrices->options.out : matrices->options.out;
}

static size_t product_bytes(const moecl_matrices *matrices, size_t rows)
{
    return moecl_round_up(padded_rows(matrices->options.groups, rows) * product_columns(matrices) * sizeof(cl_float),
                          256);
}

static size_t scratch_bytes(const struct moecl_gemm *gemm, const moecl_matrices *matrices, size_t rows)
{
    (void)gemm;
    const size_t converted = product_columns(matrices) * matrices->options.in * sizeof(cl_float);
    return product_bytes(matrices, rows) + (matrices->options.weights == MOECL_F32 ? 0 : converted);
}

/* ------------------------------------------------------------------------------------------------ grouping -- */

/* What a GEMM costs besides its rows, in rows: CLBlast copies and pads the weights for each (measured on PoCL: M = 1
 * and M = 8 take the same time, which 16 more rows double), and a call of its own costs a little too. */
enum { MATRIX_ROWS = 16, CALL_ROWS = 2 };

static void choose_batch(const struct clblast *clblast, struct moecl_grouping *grouping)
{
    size_t plain = 0;
    grouping->longest = 0;
    grouping->capacity = 0;
    for (size_t e = 0; e < grouping->groups; e++) {
        const size_t rows = grouping->host_offsets[e + 1] - grouping->host_offsets[e];
        if (rows > 0)
            plain += rows + MATRIX_ROWS + CALL_ROWS;
        if (rows > grouping->longest)
            grouping->longest = rows;
    }
    const size_t batch = grouping->groups * grouping->longest;
    if (grouping->groups > 1 && !clblast->converts && batch <= padded_rows(grouping->groups, grouping->rows) &&
        batch + grouping->groups * MATRIX_ROWS + CALL_ROWS < plain)
        grouping->capacity = grouping->longest;
}

static moecl_status group(struct moecl_gemm *gemm, struct moecl_chain *chain, struct moecl_grouping *grouping)
{
    moecl_status status = MOECL_OK;
    if (grouping->exact) {
        grouping->host_offsets[0] = 0;
        grouping->host_offsets[1] = (cl_uint)grouping->rows;
    } else {
        TRY(moecl_chain_leave(chain));
        TRY(moecl_buffer_read(gemm->context, grouping->offsets, (grouping->groups + 1) * sizeof(cl_uint),
                              grouping->host_offsets));
        for (size_t e = 0; e < grouping->groups; e++)
            if (grouping->host_offsets[e] > grouping->host_offsets[e + 1] ||
                grouping->host_offsets[e + 1] > grouping->rows)
                FAIL(&gemm->context->error, MOECL_INVALID_ARGUMENT,
                     "grouped GEMM: offsets fall or pass %zu rows at group %zu", grouping->rows, e);
    }
    choose_batch((const struct clblast *)gemm, grouping);
out:
    return status;
}

/* Queues a kernel over 16 columns x the i-th rows x the groups. */
static moecl_status launch_rows(struct moecl_chain *chain, cl_kernel kernel, const struct moecl_grouping *grouping,
                                size_t columns, const struct moecl_argument *arguments, size_t count)
{
    const size_t global[] = {moecl_divide_up(columns, COLUMNS), grouping->longest, grouping->groups};
    return moecl_launch(chain, kernel, 3, global, NULL, arguments, count);
}

static moecl_status pack(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                         const struct moecl_pack *pack)
{
    const struct clblast *clblast = (const struct clblast *)gemm;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(pack->x),
        ARGUMENT_BUFFER(pack->divisor ? pack->assignments : grouping->offsets),
        ARGUMENT_U32(pack->divisor),
        ARGUMENT_U32(pack->row_weights.memory != NULL),
        ARGUMENT_BUFFER(pack->row_weights.memory ? pack->row_weights : grouping->offsets),
        ARGUMENT_BUFFER(grouping->offsets),
        ARGUMENT_U32(grouping->capacity),
        ARGUMENT_U32(pack->depth),
        ARGUMENT_BUFFER(pack->packed),
        ARGUMENT_BUFFER(pack->flag.memory ? pack->flag : pack->packed),
        ARGUMENT_U32(pack->flag.memory ? pack->flag_bits : 0),
    };
    return launch_rows(chain, clblast->gather[pack->type], grouping, pack->depth, arguments,
                       sizeof(arguments) / sizeof(arguments[0]));
}

/* ------------------------------------------------------------------------------------------------ multiply -- */

/* A buffer and an offset in floats, as CLBlast takes them. */
struct operand {
    cl_mem memory;
    size_t offset;
};

static struct operand operand(moecl_buffer buffer, size_t floats)
{
    return (struct operand){buffer.memory, buffer.offset / sizeof(cl_float) + floats};
}

static moecl_status check_code(struct moecl_context *context, CLBlastStatusCode code, const char *call, size_t rows,
                               const moecl_matrices *matrices)
{
    if (code == CLBlastSuccess)
        return MOECL_OK;
    return moecl_error_set(&context->error, MOECL_OPENCL_ERROR, "%s failed with code %d, for %zu rows by [%zu,%zu]",
                           call, (int)code, rows, product_columns(matrices), matrices->options.in);
}

/* One group's rows by its weights, which lie at `weights` in the storage type. */
static moecl_status multiply_group(struct clblast *clblast, struct moecl_chain *chain, const moecl_matrices *matrices,
                                   size_t rows, struct operand a, moecl_buffer weights, moecl_buffer converted,
                                   struct operand c)
{
    struct moecl_context *context = clblast->gemm.context;
    const size_t n = product_columns(matrices), k = matrices->options.in;
    const moecl_type type = matrices->options.weights;
    moecl_status status = MOECL_OK;
    if (type != MOECL_F32) {
        const struct moecl_argument arguments[] = {ARGUMENT_BUFFER(weights), ARGUMENT_U64(n * k),
                                                   ARGUMENT_BUFFER(converted)};
        const size_t global = moecl_divide_up(n * k, COLUMNS);
        TRY(moecl_launch(chain, clblast->convert[type], 1, &global, NULL, arguments, 3));
    }
    const struct operand b = operand(type == MOECL_F32 ? weights : converted, 0);
    TRY(moecl_chain_leave(chain));
    TRY(check_code(context,
                   CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, rows, n, k, 1.0f,
                                a.memory, a.offset, k, b.memory, b.offset, k, 0.0f, c.memory, c.offset, n,
                                &context->queue, NULL),
                   "CLBlastSgemm", rows, matrices));
    TRY(moecl_chain_enter(chain));
out:
    return status;
}

/* The groups of a part, padded to the capacity, in one call. */
static moecl_status multiply_batch(struct clblast *clblast, struct moecl_chain *chain, const moecl_matrices *matrices,
                                   size_t rows, struct operand a, struct operand b, struct operand c, size_t groups)
{
    struct moecl_context *context = clblast->gemm.context;
    const size_t n = product_columns(matrices), k = matrices->options.in;
    moecl_status status = MOECL_OK;
    TRY(moecl_chain_leave(chain));
    TRY(check_code(context,
                   CLBlastSgemmStridedBatched(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, rows, n,
                                              k, 1.0f, a.memory, a.offset, k, rows * k, b.memory, b.offset, k, n * k,
                                              0.0f, c.memory, c.offset, n, rows * n, groups, &context->queue, NULL),
                   "CLBlastSgemmStridedBatched", rows, matrices));
    TRY(moecl_chain_enter(chain));
out:
    return status;
}

static moecl_status multiply_part(struct clblast *clblast, struct moecl_chain *chain,
                                  const struct moecl_grouping *grouping, const struct moecl_multiply *multiply,
                                  struct moecl_part part, moecl_buffer product)
{
    const moecl_matrices *matrices = multiply->matrices;
    const size_t n = product_columns(matrices), k = matrices->options.in, capacity = grouping->capacity;
    const moecl_buffer converted = moecl_buffer_at(multiply->scratch, product_bytes(matrices, grouping->rows));
    moecl_status status = MOECL_OK;
    if (capacity) {
        TRY(multiply_batch(clblast, chain, matrices, capacity, operand(multiply->packed, part.first * capacity * k),
                           operand(part.buffer, 0), operand(product, part.first * capacity * n),
                           part.end - part.first));
        goto out;
    }
    for (size_t e = part.first; e < part.end; e++) {
        const size_t first = grouping->host_offsets[e], rows = grouping->host_offsets[e + 1] - first;
        if (rows == 0)
            continue;
        TRY(multiply_group(clblast, chain, matrices, rows, operand(multiply->packed, first * k),
                           moecl_buffer_at(part.buffer, (e - part.first) * matrices->group_bytes), converted,
                           operand(product, first * n)));
    }
out:
    return status;
}

static moecl_status multiply(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                             const struct moecl_multiply *multiply)
{
    struct clblast *clblast = (struct clblast *)gemm;
    const moecl_matrices *matrices = multiply->matrices;
    const moecl_buffer biases = moecl_matrices_bias(matrices, 0);
    const bool as_it_is = !grouping->capacity && !biases.memory &&
                          (multiply->form == MOECL_FORM_ROWS || multiply->form == MOECL_FORM_LINEAR);
    const moecl_buffer product = as_it_is ? multiply->output : multiply->scratch;
    moecl_status status = MOECL_OK;
    if (padded_rows(grouping->groups, grouping->rows) > INT32_MAX / product_columns(matrices) ||
        padded_rows(grouping->groups, grouping->rows) > INT32_MAX / matrices->options.in)
        FAIL(&gemm->context->error, MOECL_UNSUPPORTED,
             "clblast: %zu rows are more than its 32-bit indices reach; a smaller workspace budget makes them fewer",
             grouping->rows);
    for (size_t i = 0; i < matrices->part_count; i++)
        TRY(multiply_part(clblast, chain, grouping, multiply, moecl_matrices_part(matrices, i), product));
    if (!as_it_is) {
        const moecl_matrices_options key = finish_key(&matrices->options);
        const struct moecl_argument arguments[] = {
            ARGUMENT_BUFFER(product),
            ARGUMENT_BUFFER(grouping->offsets),
            ARGUMENT_U32(grouping->capacity),
            ARGUMENT_U32(matrices->options.out),
            ARGUMENT_U32(biases.memory != NULL),
            ARGUMENT_BUFFER(biases.memory ? biases : product),
            ARGUMENT_U32(multiply->form),
            ARGUMENT_BUFFER(multiply->output),
        };
        TRY(launch_rows(chain, moecl_function_kernel_find(clblast->finish, &key), grouping, matrices->options.out,
                        arguments, sizeof(arguments) / sizeof(arguments[0])));
    }
out:
    return status;
}

const struct moecl_variant moecl_variant_clblast = {
    .name = "clblast",
    .largest_part = INT32_MAX,
    .fit = fit,
    .create = create,
    .prepare = prepare,
    .destroy = destroy,
    .map_bytes = map_bytes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .group = group,
    .pack = pack,
    .multiply = multiply,
};
