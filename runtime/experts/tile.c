/* SPDX-License-Identifier: Apache-2.0 */
/* tile.c - the portable variant: cl/tile.cl, which has the layouts and the launch geometry. No host synchronisation. */
#include <stdio.h>
#include <string.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "device/program.h"
#include "function.h"
#include "matrices.h"
#include "variant.h"

enum parameter { GROUP_ROWS, GROUP_COLUMNS, ITEM_ROWS, ITEM_VECTORS, STAGE_DEPTH, TILE_BLOCK, PARAMETER_COUNT };

static const struct moecl_parameter parameters[PARAMETER_COUNT] = {
    [GROUP_ROWS] = {"group_rows", "work-items of a group along the rows", {1, 2, 4, 8, 16, 32}, 6},
    [GROUP_COLUMNS] = {"group_columns", "work-items of a group along the columns", {1, 2, 4, 8, 16}, 5},
    [ITEM_ROWS] = {"item_rows", "rows a work-item makes", {1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16}, 11},
    [ITEM_VECTORS] = {"item_vectors", "16-column vectors a work-item makes", {1, 2}, 2},
    [STAGE_DEPTH] = {"stage_depth", "steps staged in local memory; 0: none", {0, 4, 8, 16, 32}, 5},
    [TILE_BLOCK] = {"tile_block", "tiles that share a panel while it is cached", {1, 2, 4, 8, 16, 32}, 6},
};

#define SET(parameter) (1u << (parameter))
/* A stage of A is stage_depth x group_rows x item_rows floats, one of B stage_depth x group_columns x 16 item_vectors;
 * the second is bounded by 16 times the sum below. */
static const struct moecl_constraint constraints[] = {
    {SET(GROUP_ROWS) | SET(GROUP_COLUMNS), 0, 1, MOECL_LIMIT_WORK_GROUP, 0, "work-items a group"},
    {SET(ITEM_ROWS) | SET(ITEM_VECTORS), 0, 16, MOECL_LIMIT_CONSTANT, 16 * 32, "sums a work-item"},
    {SET(STAGE_DEPTH) | SET(GROUP_ROWS) | SET(ITEM_ROWS), 0, 4, MOECL_LIMIT_LOCAL_MEMORY, 0,
     "bytes of local memory for A"},
    {SET(STAGE_DEPTH) | SET(GROUP_COLUMNS) | SET(ITEM_VECTORS), 0, 64, MOECL_LIMIT_LOCAL_MEMORY, 0,
     "bytes of local memory for B"},
};

/* A CPU's work-item is a tile: as many sums as the vector registers hold, 16 of 8 floats or 32 of 16. A GPU's group of
 * 64 shares its operands through local memory. */
static void fit(const moecl_device_info *info, unsigned *values)
{
    static const unsigned cpu_narrow[PARAMETER_COUNT] = {1, 1, 6, 1, 0, 8};
    static const unsigned cpu_wide[PARAMETER_COUNT] = {1, 1, 12, 2, 0, 8};
    static const unsigned gpu[PARAMETER_COUNT] = {16, 4, 4, 1, 16, 8};
    const unsigned *fitted = info->type != CL_DEVICE_TYPE_CPU ? gpu : info->native_floats >= 16 ? cpu_wide : cpu_narrow;
    memcpy(values, fitted, sizeof(cpu_wide));
}

struct tile {
    struct moecl_gemm gemm;
    cl_kernel map;
    cl_kernel pack[3]; /* by moecl_type of the input; NULL: not prepared */
    struct moecl_function_kernel *multiply;
};

static size_t tile_rows(const struct moecl_gemm *gemm)
{
    return (size_t)gemm->values[GROUP_ROWS] * gemm->values[ITEM_ROWS];
}

/* The most tiles there can be: every group with rows may end in a tile that is not full. */
static size_t tile_bound(const struct moecl_gemm *gemm, size_t groups, size_t rows)
{
    return moecl_divide_up(rows, tile_rows(gemm)) + (groups < rows ? groups : rows);
}

static void destroy(struct moecl_gemm *gemm)
{
    struct tile *tile = (struct tile *)gemm;
    if (tile->map)
        clReleaseKernel(tile->map);
    for (size_t type = 0; type < 3; type++)
        if (tile->pack[type])
            clReleaseKernel(tile->pack[type]);
    moecl_function_kernels_release(&tile->multiply);
    moecl_free(tile);
}

static moecl_status create_kernel(const struct moecl_gemm *gemm, const char *name,
                                  const moecl_matrices_options *product, cl_kernel *kernel)
{
    const moecl_expert_function function = moecl_function_of(product);
    char options[256 + MOECL_FUNCTION_OPTIONS], specialised[MOECL_FUNCTION_OPTIONS];
    moecl_function_build_options(&function, specialised);
    snprintf(options, sizeof(options),
             "-DGROUP_ROWS=%u -DGROUP_COLUMNS=%u -DITEM_ROWS=%u -DITEM_VECTORS=%u -DSTAGE_DEPTH=%u -DTILE_BLOCK=%u "
             "-DWEIGHT_TYPE=%s -DACTIVATION_TYPE=%s %s",
             gemm->values[GROUP_ROWS], gemm->values[GROUP_COLUMNS], gemm->values[ITEM_ROWS], gemm->values[ITEM_VECTORS],
             gemm->values[STAGE_DEPTH], gemm->values[TILE_BLOCK], moecl_type_name(product->weights),
             moecl_type_name(product->activations), specialised);
    return moecl_kernel_create(gemm->context, "activation.cl columns.cl tile.cl", options, name, kernel);
}

static moecl_status create(struct moecl_context *context, const unsigned *values, struct moecl_gemm **created)
{
    moecl_status status = MOECL_OK;
    struct tile *tile = moecl_allocate(1, sizeof(*tile));
    if (!tile)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "tile: out of memory");
    tile->gemm.variant = &moecl_variant_tile;
    tile->gemm.context = context;
    memcpy(tile->gemm.values, values, sizeof(tile->gemm.values));
    tile->gemm.layout = (struct moecl_layout){MOECL_LAYOUT_PANELS, 16 * (size_t)values[ITEM_VECTORS], false};
    *created = &tile->gemm;
out:
    return status;
}

static moecl_status prepare(struct moecl_gemm *gemm, const moecl_matrices_options *options, bool in_pairs)
{
    (void)in_pairs;
    struct tile *tile = (struct tile *)gemm;
    cl_kernel multiply = NULL;
    moecl_status status = MOECL_OK;
    if (!tile->map)
        TRY(create_kernel(gemm, "tile_map", options, &tile->map));
    if (!tile->pack[options->activations])
        TRY(create_kernel(gemm, "tile_pack", options, &tile->pack[options->activations]));
    if (!moecl_function_kernel_find(tile->multiply, options)) {
        TRY(create_kernel(gemm, "tile_multiply", options, &multiply));
        TRY(moecl_function_kernel_add(gemm->context, &tile->multiply, options, multiply));
        multiply = NULL;
    }
out:
    if (multiply)
        clReleaseKernel(multiply);
    return status;
}

static size_t map_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows)
{
    return tile_bound(gemm, groups, rows) * sizeof(cl_uint4);
}

static size_t packed_bytes(const struct moecl_gemm *gemm, size_t groups, size_t rows, size_t depth)
{
    return tile_bound(gemm, groups, rows) * tile_rows(gemm) * depth * sizeof(cl_float);
}

static size_t scratch_bytes(const struct moecl_gemm *gemm, const moecl_matrices *matrices, size_t rows)
{
    (void)gemm, (void)matrices, (void)rows;
    return 0;
}

static moecl_status group(struct moecl_gemm *gemm, struct moecl_chain *chain, struct moecl_grouping *grouping)
{
    const struct tile *tile = (const struct tile *)gemm;
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(grouping->offsets), ARGUMENT_U32(grouping->groups),
        ARGUMENT_U32(grouping->rows),       ARGUMENT_U32(tile_bound(gemm, grouping->groups, grouping->rows)),
        ARGUMENT_BUFFER(grouping->map),
    };
    return moecl_launch(chain, tile->map, 1, &grouping->groups, NULL, arguments,
                        sizeof(arguments) / sizeof(arguments[0]));
}

enum { PACK_DEPTH = 16 }; /* of cl/tile.cl */

static moecl_status pack(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                         const struct moecl_pack *pack)
{
    const struct tile *tile = (const struct tile *)gemm;
    const size_t bound = tile_bound(gemm, grouping->groups, grouping->rows);
    const struct moecl_argument arguments[] = {
        ARGUMENT_BUFFER(pack->x),
        ARGUMENT_BUFFER(pack->divisor ? pack->assignments : grouping->offsets),
        ARGUMENT_U32(pack->divisor),
        ARGUMENT_U32(pack->row_weights.memory != NULL),
        ARGUMENT_BUFFER(pack->row_weights.memory ? pack->row_weights : grouping->offsets),
        ARGUMENT_BUFFER(grouping->map),
        ARGUMENT_U32(pack->depth),
        ARGUMENT_U32(bound),
        ARGUMENT_BUFFER(pack->packed),
        ARGUMENT_BUFFER(pack->flag.memory ? pack->flag : pack->packed),
        ARGUMENT_U32(pack->flag.memory ? pack->flag_bits : 0),
    };
    const size_t global[] = {moecl_divide_up(pack->depth, PACK_DEPTH), bound};
    return moecl_launch(chain, tile->pack[pack->type], 2, global, NULL, arguments,
                        sizeof(arguments) / sizeof(arguments[0]));
}

static moecl_status multiply(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                             const struct moecl_multiply *multiply)
{
    const struct tile *tile = (const struct tile *)gemm;
    const moecl_matrices *matrices = multiply->matrices;
    cl_kernel kernel = moecl_function_kernel_find(tile->multiply, &matrices->options);
    const size_t bound = tile_bound(gemm, grouping->groups, grouping->rows);
    const size_t panels = moecl_layout_panels(&matrices->layout, &matrices->shape);
    const moecl_buffer biases = moecl_matrices_bias(matrices, 0);
    const size_t local[] = {gemm->values[GROUP_ROWS], gemm->values[GROUP_COLUMNS], 1};
    const size_t global[] = {local[0] * gemm->values[TILE_BLOCK], panels,
                             moecl_divide_up(bound, gemm->values[TILE_BLOCK])};
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < matrices->part_count; i++) {
        const struct moecl_part part = moecl_matrices_part(matrices, i);
        const struct moecl_argument arguments[] = {
            ARGUMENT_BUFFER(multiply->packed),
            ARGUMENT_BUFFER(part.buffer),
            ARGUMENT_BUFFER(grouping->map),
            ARGUMENT_U32(bound),
            ARGUMENT_U32(matrices->options.in),
            ARGUMENT_U32(matrices->options.out),
            ARGUMENT_U32(panels),
            ARGUMENT_U32(part.first),
            ARGUMENT_U32(part.end),
            ARGUMENT_U32(biases.memory != NULL),
            ARGUMENT_BUFFER(biases.memory ? biases : grouping->map),
            ARGUMENT_U32(multiply->form),
            ARGUMENT_BUFFER(multiply->output),
        };
        TRY(moecl_launch(chain, kernel, 3, global, local, arguments, sizeof(arguments) / sizeof(arguments[0])));
    }
out:
    return status;
}

const struct moecl_variant moecl_variant_tile = {
    .name = "tile",
    .space = {parameters, PARAMETER_COUNT, constraints, sizeof(constraints) / sizeof(constraints[0])},
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
