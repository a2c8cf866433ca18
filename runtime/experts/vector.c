/* SPDX-License-Identifier: Apache-2.0 */
/* vector.c - the variant for CPUs: cl/vector.cl, which has the layouts and the launch geometry. No host
 * synchronisation. */
#include <stdio.h>
#include <string.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/probe.h"
#include "device/program.h"
#include "function.h"
#include "matrices.h"
#include "variant.h"

enum parameter { ITEM_ROWS, ITEM_VECTORS, BLOCK_TILES, DEPTH_STEPS, PRODUCTS, PIECE_ROWS, PARAMETER_COUNT };

/* How bf16 is multiplied by bf16; and f16 by f16, in pieces, where that is by AMX. */
enum products { FITTED, FLOATS, PAIRS, PAIRS_AVX512, PAIRS_AMX };

enum { TYPE_NONE = MOECL_BF16 + 1 }; /* x is not read */
enum { LOW_PANELS = 4 };             /* cl/panels.cl has the same */

static const struct moecl_parameter parameters[PARAMETER_COUNT] = {
    [ITEM_ROWS] = {"item_rows", "rows a tile has at most", {6, 8, 10, 12}, 4},
    [ITEM_VECTORS] = {"item_vectors", "16-column vectors a panel has", {1, 2}, 2},
    [BLOCK_TILES] = {"block_tiles", "tiles that share a chunk of a panel while it is cached", {1, 2, 4, 8, 16, 32}, 6},
    [PRODUCTS] = {"products",
                  "of bf16 by bf16: 0 the fastest, 1 floats, 2 pairs in plain code, 3 by AVX512-BF16, 4 by AMX",
                  {FITTED, FLOATS, PAIRS, PAIRS_AVX512, PAIRS_AMX},
                  5},
    [PIECE_ROWS] = {"piece_rows",
                    "rows an expert has on average from which f16 is multiplied by f16 in pieces, by AMX",
                    {1, 8, 16, 32, 64},
                    5},
    [DEPTH_STEPS] = {"depth_steps", "steps a chunk has", {32, 64, 128, 256, 512, 1024}, 6},
};

#define SET(parameter) (1u << (parameter))
static const struct moecl_constraint constraints[] = {
    {SET(ITEM_ROWS) | SET(ITEM_VECTORS), 0, 16, MOECL_LIMIT_CONSTANT, 16 * 24, "sums a tile and a panel"},
};

/* A tile has as many sums as the vector registers hold, 16 of 8 floats or 32 of 16. Chunks of 256 steps are as fast as
 * longer ones, and keep the error of an f32 sum at that of OpenBLAS (0.8 to 1.4 times it; 512 steps: up to 2.3). */
static void fit(const moecl_device_info *info, unsigned *values)
{
    static const unsigned narrow[PARAMETER_COUNT] = {6, 1, 16, 256, FITTED, 16};
    static const unsigned wide[PARAMETER_COUNT] = {12, 2, 32, 256, FITTED, 16};
    memcpy(values, info->native_floats >= 16 ? wide : narrow, sizeof(wide));
}

static bool suits(const moecl_device_info *info)
{
    return (info->type & CL_DEVICE_TYPE_CPU) != 0;
}

struct vector {
    struct moecl_gemm gemm;
    cl_kernel map;
    cl_kernel pack[3], pack_pairs[3]; /* by moecl_type of the input; NULL: not prepared */
    struct moecl_function_kernel *multiply, *multiply_pairs;
};

static size_t block_rows(const struct moecl_gemm *gemm)
{
    return (size_t)gemm->values[ITEM_ROWS] * gemm->values[BLOCK_TILES];
}

/* The most blocks there can be: every group with rows may have one that is not full. */
static size_t block_bound(const struct moecl_gemm *gemm, size_t groups, size_t rows)
{
    return moecl_divide_up(rows, block_rows(gemm)) + (groups < rows ? groups : rows);
}

/* One token's rows are blocks; the only group's are not more than they must be. */
static size_t grouping_blocks(const struct moecl_gemm *gemm, const struct moecl_grouping *grouping)
{
    return grouping->order == MOECL_ORDER_BY_GROUP    ? block_bound(gemm, grouping->groups, grouping->rows)
           : grouping->order == MOECL_ORDER_BY_CHOICE ? grouping->rows
                                                      : moecl_divide_up(grouping->rows, block_rows(gemm));
}

/* What kernels take for the map; of the only group they do not look at it, so `other` will do. */
static moecl_buffer grouping_map(const struct moecl_grouping *grouping, moecl_buffer other)
{
    return grouping->order == MOECL_ORDER_BY_GROUP    ? grouping->map
           : grouping->order == MOECL_ORDER_BY_CHOICE ? grouping->choices
                                                      : other;
}

static void destroy(struct moecl_gemm *gemm)
{
    struct vector *vector = (struct vector *)gemm;
    if (vector->map)
        clReleaseKernel(vector->map);
    for (size_t type = 0; type < 3; type++) {
        if (vector->pack[type])
            clReleaseKernel(vector->pack[type]);
        if (vector->pack_pairs[type])
            clReleaseKernel(vector->pack_pairs[type]);
    }
    moecl_function_kernels_release(&vector->multiply);
    moecl_function_kernels_release(&vector->multiply_pairs);
    moecl_free(vector);
}

/* The rows that a tile has at most: AMX takes twice what a tile register holds. */
static unsigned tile_rows(const struct moecl_gemm *gemm, bool in_pairs)
{
    return in_pairs && gemm->values[PRODUCTS] == PAIRS_AMX ? 32 : gemm->values[ITEM_ROWS];
}

/* In how many pieces products in pairs have values. */
static unsigned pieces(moecl_type weights, bool in_pairs)
{
    return in_pairs && weights == MOECL_F16 ? 2 : 1;
}

/* The steps that a chunk has. AMX takes twice as many: bf16 by bf16, they take as much of a cache, and sums go through
 * memory between one chunk and the next. */
static unsigned depth_steps(const struct moecl_gemm *gemm, bool in_pairs)
{
    return in_pairs && gemm->values[PRODUCTS] == PAIRS_AMX ? 2 * gemm->values[DEPTH_STEPS] : gemm->values[DEPTH_STEPS];
}

static moecl_status create_kernel(const struct moecl_gemm *gemm, const char *name,
                                  const moecl_matrices_options *product, bool in_pairs, cl_kernel *kernel)
{
    static const char *const files =
        "activation.cl columns.cl blocks.cl panels.cl amx.cl amx_bodies.cl bodies.cl vector.cl";
    const moecl_expert_function function = moecl_function_of(product);
    const unsigned rows = tile_rows(gemm, in_pairs), tiles = (unsigned)moecl_divide_up(block_rows(gemm), rows);
    const unsigned products = in_pairs ? gemm->values[PRODUCTS] : FLOATS;
    const bool avx512_bf16 = products >= PAIRS_AVX512 && gemm->context->info.avx512_bf16;
    char options[360 + MOECL_FUNCTION_OPTIONS], specialised[MOECL_FUNCTION_OPTIONS];
    moecl_function_build_options(&function, specialised);
    snprintf(options, sizeof(options),
             "-DFUNCTION_WIDTH=%u -DITEM_ROWS=%u -DITEM_VECTORS=%u -DBLOCK_TILES=%u -DDEPTH_STEPS=%u -DPIECES=%u "
             "-DWEIGHT_TYPE=%s -DACTIVATION_TYPE=%s -DPACKED_TYPE=%s "
             "-DPAIRS=%d -DIN_PAIRS=%d -DAVX512_BF16=%d -DPAIRS_AVX512=%d -DPAIRS_AMX=%d %s",
             8 * gemm->values[ITEM_VECTORS], rows, gemm->values[ITEM_VECTORS], tiles, depth_steps(gemm, in_pairs),
             pieces(product->weights, in_pairs), moecl_type_name(product->weights),
             moecl_type_name(product->activations), moecl_type_name(in_pairs ? MOECL_BF16 : MOECL_F32),
             product->weights == MOECL_BF16, in_pairs, avx512_bf16, products == PAIRS_AVX512, products == PAIRS_AMX,
             specialised);
    return moecl_kernel_create(gemm->context, files, options, name, kernel);
}

/* Intel's vdpbf16ps takes four times as long as a multiply-add, for twice the operations (Xeon, Emerald Rapids: 70
 * GFLOP/s a core, 145 by multiply-adds; a layer takes 1.1 to 1.7 times as long by it), AMD's as long (Zen 4: 459 and
 * 232, two cores). */
static bool avx512_pairs_pay(const moecl_device_info *info)
{
    return info->avx512_bf16 && strstr(info->vendor, "Intel") == NULL;
}

/* Finds which is the fastest, and refuses what the device has not. Probing takes a second where nothing is cached yet,
 * so only devices with registers of 16 floats are asked. */
static moecl_status choose_products(struct moecl_context *context, unsigned *products)
{
    moecl_status status = MOECL_OK;
    if (*products == FLOATS || *products == PAIRS)
        goto out;
    if (suits(&context->info) && context->info.native_floats >= 16)
        TRY(moecl_probe_device(context));
    const moecl_device_info *info = &context->info;
    if ((*products == PAIRS_AVX512 && !info->avx512_bf16) || (*products == PAIRS_AMX && !info->amx_bf16))
        FAIL(&context->error, MOECL_UNSUPPORTED, "vector: products=%u, and the device has no such instruction",
             *products);
    if (*products == FITTED)
        *products = info->amx_bf16 ? PAIRS_AMX : avx512_pairs_pay(info) ? PAIRS_AVX512 : FLOATS;
out:
    return status;
}

static moecl_status create(struct moecl_context *context, const unsigned *values, struct moecl_gemm **created)
{
    moecl_status status = MOECL_OK;
    struct vector *vector = moecl_allocate(1, sizeof(*vector));
    if (!vector)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "vector: out of memory");
    vector->gemm.variant = &moecl_variant_vector;
    vector->gemm.context = context;
    memcpy(vector->gemm.values, values, sizeof(vector->gemm.values));
    vector->gemm.layout = (struct moecl_layout){MOECL_LAYOUT_PANELS, 16 * (size_t)values[ITEM_VECTORS], true};
    TRY(choose_products(context, &vector->gemm.values[PRODUCTS]));
    *created = &vector->gemm;
    vector = NULL;
out:
    moecl_free(vector);
    return status;
}

/* What pieces leave out of a product, and of an f32 h, is less than fp32 rounds off sums of so many products. */
enum { PIECE_STEPS = 256 };

static size_t pair_rows(const struct moecl_gemm *gemm, moecl_type weights, moecl_type activations, size_t steps)
{
    if (weights == MOECL_BF16 && activations == MOECL_BF16 && gemm->values[PRODUCTS] != FLOATS)
        return 0;
    if (weights == MOECL_F16 && activations == MOECL_F16 && gemm->values[PRODUCTS] == PAIRS_AMX && steps >= PIECE_STEPS)
        return gemm->values[PIECE_ROWS];
    return MOECL_NEVER_IN_PAIRS;
}

static moecl_status prepare(struct moecl_gemm *gemm, const moecl_matrices_options *options, bool in_pairs)
{
    struct vector *vector = (struct vector *)gemm;
    struct moecl_function_kernel **list = in_pairs ? &vector->multiply_pairs : &vector->multiply;
    cl_kernel *pack = &(in_pairs ? vector->pack_pairs : vector->pack)[options->activations], multiply = NULL;
    moecl_status status = MOECL_OK;
    if (!vector->map) /* one for all products: its blocks are the parameters', whatever tiles AMX makes of their rows */
        TRY(create_kernel(gemm, "vector_map", options, false, &vector->map));
    if (!*pack)
        TRY(create_kernel(gemm, "vector_pack", options, in_pairs, pack));
    if (!moecl_function_kernel_find(*list, options)) {
        TRY(create_kernel(gemm, "vector_multiply", options, in_pairs, &multiply));
        TRY(moecl_function_kernel_add(gemm->context, list, options, multiply));
        multiply = NULL;
    }
out:
    if (multiply)
        clReleaseKernel(multiply);
    return status;
}

static size_t map_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows)
{
    return block_bound(gemm, groups, rows) * 4 * sizeof(cl_uint);
}

/* Of floats, or of two pieces, which take as much, in chunks as long as any program's. */
static size_t packed_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows, size_t depth)
{
    (void)groups;
    return rows * moecl_round_up(depth, depth_steps(gemm, true)) * sizeof(cl_float);
}

static size_t scratch_bytes(const struct moecl_gemm *gemm, const moecl_matrices *matrices, size_t rows)
{
    (void)gemm, (void)matrices, (void)rows;
    return 0;
}

static moecl_status group(struct moecl_gemm *gemm, struct moecl_chain *chain, struct moecl_grouping *grouping)
{
    const struct vector *vector = (const struct vector *)gemm;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(grouping->offsets), ARGUMENT_U32(grouping->groups),
        ARGUMENT_U32(grouping->rows),       ARGUMENT_U32(block_bound(gemm, grouping->groups, grouping->rows)),
        ARGUMENT_BUFFER(grouping->map),
    };
    const size_t one = 1;
    return moecl_launch(chain, vector->map, 1, &one, NULL, arguments, sizeof(arguments) / sizeof(arguments[0]));
}

static moecl_status pack(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                         const struct moecl_pack *pack)
{
    const struct vector *vector = (const struct vector *)gemm;
    const size_t bound = grouping_blocks(gemm, grouping);
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(pack->x),
        ARGUMENT_BUFFER(pack->divisor ? pack->assignments : pack->x),
        ARGUMENT_U32(pack->divisor),
        ARGUMENT_U32(pack->row_weights.memory != NULL),
        ARGUMENT_BUFFER(pack->row_weights.memory ? pack->row_weights : pack->x),
        ARGUMENT_U32(grouping->order),
        ARGUMENT_BUFFER(grouping_map(grouping, pack->x)),
        ARGUMENT_U32(pack->depth),
        ARGUMENT_U32(grouping->rows),
        ARGUMENT_U32(bound),
        ARGUMENT_BUFFER(pack->packed),
        ARGUMENT_BUFFER(pack->flag.memory ? pack->flag : pack->packed),
        ARGUMENT_U32(pack->flag.memory ? pack->flag_bits : 0),
    };
    const size_t global[] = {moecl_divide_up(pack->depth, depth_steps(gemm, pack->pairs)), bound};
    return moecl_launch(chain, (pack->pairs ? vector->pack_pairs : vector->pack)[pack->type], 2, global, NULL,
                        arguments, sizeof(arguments) / sizeof(arguments[0]));
}

/* How many panels a work-item has: as many as low tiles multiply at once, where that leaves every core two work-items;
 * more or fewer make no difference to other tiles. */
static size_t item_panels(const struct moecl_gemm *gemm, size_t panels, size_t blocks)
{
    size_t count = LOW_PANELS;
    while (count > 1 && moecl_divide_up(panels, count) * blocks < 2 * (size_t)gemm->context->info.compute_units)
        count /= 2;
    return count;
}

/* Into how many work-items the tiles of a block go if it has all rows, for `items` of each block besides: so that the
 * longest work-item is no more than an eighth of a core's share. */
static size_t block_splits(const struct moecl_gemm *gemm, size_t rows, size_t items)
{
    const size_t wanted = moecl_divide_up(8 * (size_t)gemm->context->info.compute_units, items);
    const size_t tiles = moecl_divide_up(rows, gemm->values[ITEM_ROWS]);
    const size_t most = tiles < gemm->values[BLOCK_TILES] ? tiles : gemm->values[BLOCK_TILES];
    return wanted < most ? wanted : most;
}

static moecl_status multiply(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                             const struct moecl_multiply *multiply)
{
    const struct vector *vector = (const struct vector *)gemm;
    const moecl_matrices *matrices = multiply->matrices;
    const bool in_pairs = moecl_matrices_in_pairs(matrices, grouping->rows);
    const struct moecl_function_kernel *list = in_pairs ? vector->multiply_pairs : vector->multiply;
    cl_kernel kernel = moecl_function_kernel_find(list, &matrices->options);
    const size_t bound = grouping_blocks(gemm, grouping);
    const bool reads_x = multiply->packed.memory == NULL;
    const moecl_buffer input = reads_x ? multiply->x : multiply->packed;
    const size_t panels = moecl_layout_panels(&matrices->layout, &matrices->shape);
    const size_t together = item_panels(gemm, panels, bound), items = moecl_divide_up(panels, together);
    const size_t splits = grouping->order != MOECL_ORDER_BY_CHOICE ? block_splits(gemm, grouping->rows, items) : 1;
    const moecl_buffer biases = moecl_matrices_bias(matrices, 0);
    const size_t local[] = {1, 1, 1}, global[] = {splits, items, bound};
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < matrices->part_count; i++) {
        const struct moecl_part part = moecl_matrices_part(matrices, i);
        const struct moecl_argument arguments[] = {
            ARGUMENT_BUFFER(input),
            ARGUMENT_U32(reads_x ? (size_t)multiply->type : TYPE_NONE),
            ARGUMENT_BUFFER(part.buffer),
            ARGUMENT_U32(grouping->order),
            ARGUMENT_BUFFER(grouping_map(grouping, input)),
            ARGUMENT_U32(grouping->rows),
            ARGUMENT_U32(bound),
            ARGUMENT_U32(matrices->options.in),
            ARGUMENT_U32(matrices->options.out),
            ARGUMENT_U32(panels),
            ARGUMENT_U32(together),
            ARGUMENT_U32(part.first),
            ARGUMENT_U32(part.end),
            ARGUMENT_U32(splits),
            ARGUMENT_U32(biases.memory != NULL),
            ARGUMENT_BUFFER(biases.memory ? biases : input),
            ARGUMENT_U32(multiply->form),
            ARGUMENT_BUFFER(multiply->output),
            ARGUMENT_BUFFER(reads_x ? multiply->flag : multiply->output),
            ARGUMENT_U32(reads_x ? multiply->flag_bits : 0),
        };
        TRY(moecl_launch(chain, kernel, 3, global, local, arguments, sizeof(arguments) / sizeof(arguments[0])));
    }
out:
    return status;
}

const struct moecl_variant moecl_variant_vector = {
    .name = "vector",
    .any_order = true,
    .space = {parameters, PARAMETER_COUNT, constraints, sizeof(constraints) / sizeof(constraints[0])},
    .suits = suits,
    .fit = fit,
    .create = create,
    .pair_rows = pair_rows,
    .prepare = prepare,
    .destroy = destroy,
    .map_bytes = map_bytes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .group = group,
    .pack = pack,
    .multiply = multiply,
};
