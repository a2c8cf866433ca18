/* SPDX-License-Identifier: Apache-2.0 */
/* tile.cl - the portable grouped GEMM: C_e = A_e B_e^T for every expert e, a tile of rows at a time.
 *
 * Shapes: A_e [n_e,K] the rows of expert e in expert order, B_e [N,K] its weights, C_e [n_e,N]; n_e = offsets[e+1] -
 * offsets[e] is known to the device alone. A gated product has two matrices an expert, gate and up. A product may have
 * biases, f32 [E][N], gated [E][2N] (gate's, then up's); what becomes of it then is activation.cl's business.
 *
 * Layouts:
 *   A, packed    rows of one expert in tiles of TILE_ROWS, a tile K steps deep; rows past n_e are zero
 *
 *                [tile 0: k=0: r0 r1 .. | k=1: r0 r1 .. | ..] [tile 1: ..]       float
 *
 *   B, panels    PANEL_COLUMNS columns of C a panel, K steps deep; columns past N are zero. Gated: of every 16 columns
 *                of a panel, 8 are of gate and the next 8 of up, so that both halves of a column of C meet in one
 *                work-item
 *
 *                [panel 0: k=0: c0 c1 .. | k=1: c0 c1 .. | ..] [panel 1: ..]     WEIGHT_TYPE
 *
 *   C            rows in expert order [rows,N], float; or packed as A is, to be the next product's A
 *   tile map     4 uint a tile: expert, first row, rows (0: a surplus tile), unused
 *
 * Launch: grids are sized for the most tiles there can be, ceil(rows / TILE_ROWS) + min(E, rows); surplus groups
 * return. Work-groups of GROUP_ROWS x GROUP_COLUMNS work-items; a work-item makes ITEM_ROWS x PANEL_COLUMNS of C in
 * registers, so it reads one panel from end to end. Group ids: 0 the tile within a block of TILE_BLOCK tiles, 1 the columns, 2 the block, so that the tiles of
 * a block, running one after the other, share each panel while it is in cache.
 *
 * STAGE_DEPTH > 0 stages that many steps of A and B in local memory (GPUs). 0: no local memory and no barrier, for
 * CPUs, with groups of one work-item.
 *
 * Deterministic: every element is one fp32 sum over k in rising order, by one work-item. */

#ifndef WEIGHT_TYPE
#define WEIGHT_TYPE f32
#endif
#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif
#ifndef GROUP_ROWS
#define GROUP_ROWS 1
#endif
#ifndef GROUP_COLUMNS
#define GROUP_COLUMNS 1
#endif
#ifndef ITEM_ROWS
#define ITEM_ROWS 6
#endif
#ifndef ITEM_VECTORS
#define ITEM_VECTORS 1
#endif
#ifndef STAGE_DEPTH
#define STAGE_DEPTH 0
#endif
#ifndef TILE_BLOCK
#define TILE_BLOCK 8
#endif

#define PANEL_COLUMNS (16 * ITEM_VECTORS)
#define TILE_ROWS (GROUP_ROWS * ITEM_ROWS)

/* One by one: Oclgrind takes a vector put together from variables and a constant for uninitialised. */
inline void set_tile(__global uint *entry, uint group, uint first_row, uint rows)
{
    entry[0] = group;
    entry[1] = first_row;
    entry[2] = rows;
    entry[3] = 0;
}

/* A vector's two halves. By memory, and not as sum.lo and sum.hi: Oclgrind takes an element of sum.hi for uninitialised.
 */
inline struct columns halves(float16 sum)
{
    float value[16];
    struct columns columns;
    vstore16(sum, 0, value);
    columns.low = vload8(0, value);
    columns.high = vload8(1, value);
    return columns;
}

/* One work-item an expert: writes its tiles; the last expert writes the surplus ones. Rows from `rows` on are left out,
 * whatever the offsets say. */
__kernel void tile_map(__global const uint *offsets_memory, ulong offsets_offset, uint groups, uint rows, uint bound,
                       __global uint *map_memory, ulong map_offset)
{
    __global const uint *offsets = VIEW(const uint, offsets);
    __global uint *map = VIEW(uint, map);
    const uint group = get_global_id(0);
    if (group >= groups)
        return;
    uint tile = 0;
    for (uint before = 0; before < group; before++)
        tile += (min(offsets[before + 1], rows) - min(offsets[before], rows) + TILE_ROWS - 1) / TILE_ROWS;
    const uint end = min(offsets[group + 1], rows);
    for (uint row = offsets[group]; row < end && tile < bound; row += TILE_ROWS, tile++)
        set_tile(map + 4 * tile, group, row, min(end - row, (uint)TILE_ROWS));
    if (group == groups - 1)
        for (; tile < bound; tile++)
            set_tile(map + 4 * tile, 0, 0, 0);
}

/* Gathers the rows of A into packed tiles: work-item (d, tile) brings PACK_DEPTH steps of a tile's rows. Row r of the
 * product is row assignments[r] / divisor of x, or row r itself where divisor is 0; where `weighted`, times
 * row_weights[assignments[r]], or row_weights[r]. NaN or infinity in x raises the bits `flag`. */
#define PACK_DEPTH 16
__kernel void tile_pack(__global const uchar *x_memory, ulong x_offset, __global const uint *assignments_memory,
                        ulong assignments_offset, uint divisor, uint weighted, __global const uchar *row_weights_memory,
                        ulong row_weights_offset, __global const uint4 *map_memory, ulong map_offset, uint depth, uint bound, __global float *packed_memory, ulong packed_offset,
                        __global uint *flag_memory, ulong flag_offset, uint flag)
{
    __global const ELEMENT(ACTIVATION_TYPE) *x = VIEW(const ELEMENT(ACTIVATION_TYPE), x);
    __global const uint *assignments = VIEW(const uint, assignments);
    const uint begin = get_global_id(0) * PACK_DEPTH, end = min(begin + PACK_DEPTH, depth);
    const uint tile = get_global_id(1);
    if (begin >= depth || tile >= bound)
        return;
    const uint4 entry = VIEW(const uint4, map)[tile];
    if (entry.z == 0)
        return;
    __global float *packed = VIEW(float, packed) + (ulong)tile * depth * TILE_ROWS;
    bool finite = true;
    for (uint r = 0; r < TILE_ROWS; r++) {
        if (r < entry.z) {
            const uint assignment = divisor ? assignments[entry.y + r] : entry.y + r;
            const uint source = divisor ? assignment / divisor : assignment;
            const float weight = weighted ? VIEW(const float, row_weights)[assignment] : 1.0f;
            for (uint k = begin; k < end; k++) {
                const float value = CALL(load, ACTIVATION_TYPE)(x + (ulong)source * depth + k);
                finite = finite && is_finite(value);
                packed[(ulong)k * TILE_ROWS + r] = value * weight;
            }
        } else {
            for (uint k = begin; k < end; k++)
                packed[(ulong)k * TILE_ROWS + r] = 0.0f;
        }
    }
    if (!finite && flag)
        atomic_or(VIEW(uint, flag), flag);
}

/* Over the rows r and the vectors v of a work-item's sums; unrolled, or they would not be registers. */
#define FOR_EACH_SUM(r, v)                                                                                             \
    _Pragma("unroll") for (uint r = 0; r < ITEM_ROWS; r++) _Pragma("unroll") for (uint v = 0; v < ITEM_VECTORS; v++)

/* sum[r][v] += a[r] * b[v], where load_b gives b[v] */
#define MULTIPLY_STEP(a, load_b)                                                                                       \
    do {                                                                                                               \
        float16 b[ITEM_VECTORS];                                                                                       \
        _Pragma("unroll") for (uint v = 0; v < ITEM_VECTORS; v++) b[v] = load_b;                                       \
        FOR_EACH_SUM(r, v)                                                                                             \
        {                                                                                                              \
            sum[r][v] += (a)[r] * b[v];                                                                                \
        }                                                                                                              \
    } while (0)

__kernel __attribute__((reqd_work_group_size(GROUP_ROWS, GROUP_COLUMNS, 1))) void
tile_multiply(__global const float *packed_memory, ulong packed_offset, __global const uchar *weights_memory,
              ulong weights_offset, __global const uint4 *map_memory, ulong map_offset, uint bound, uint depth,
              uint width, uint panels, uint first_group, uint end_group, uint biased, __global const uchar *biases_memory,
              ulong biases_offset, uint form, __global float *output_memory, ulong output_offset)
{
    const uint tile = get_group_id(2) * TILE_BLOCK + get_group_id(0);
    if (tile >= bound)
        return;
    const uint4 entry = VIEW(const uint4, map)[tile];
    if (entry.z == 0 || entry.x < first_group || entry.x >= end_group)
        return;
    const uint lane = get_local_id(0) * ITEM_ROWS; /* the work-item's first row in the tile */
    const uint panel = get_group_id(1) * GROUP_COLUMNS + get_local_id(1);
    const ulong panel_size = (ulong)depth * PANEL_COLUMNS;
    __global const float *a = VIEW(const float, packed) + (ulong)tile * depth * TILE_ROWS;
    __global const ELEMENT(WEIGHT_TYPE) *weights =
        VIEW(const ELEMENT(WEIGHT_TYPE), weights) + (ulong)(entry.x - first_group) * panels * panel_size;

    float16 sum[ITEM_ROWS][ITEM_VECTORS];
    FOR_EACH_SUM(r, v)
    {
        sum[r][v] = (float16)(0.0f);
    }

#if STAGE_DEPTH == 0
    if (panel >= panels)
        return;
    __global const float *a_step = a + lane;
    __global const ELEMENT(WEIGHT_TYPE) *b_step = weights + panel * panel_size;
    for (uint k = 0; k < depth; k++) {
        MULTIPLY_STEP(a_step, CALL(load16, WEIGHT_TYPE)(b_step + 16 * v));
        a_step += TILE_ROWS;
        b_step += PANEL_COLUMNS;
    }
#else
    __local float a_stage[STAGE_DEPTH * TILE_ROWS];
    __local float b_stage[GROUP_COLUMNS][STAGE_DEPTH * PANEL_COLUMNS];
    const uint item = get_local_id(1) * GROUP_ROWS + get_local_id(0);
    for (uint begin = 0; begin < depth; begin += STAGE_DEPTH) {
        const uint steps = min((uint)STAGE_DEPTH, depth - begin);
        for (uint i = item; i < steps * TILE_ROWS; i += GROUP_ROWS * GROUP_COLUMNS)
            a_stage[i] = a[(ulong)begin * TILE_ROWS + i];
        for (uint p = 0; p < GROUP_COLUMNS; p++) {
            /* Behind the last panel it is staged again; nobody stores what comes of it. */
            const uint source = min((uint)get_group_id(1) * GROUP_COLUMNS + p, panels - 1);
            for (uint i = item; i < steps * PANEL_COLUMNS; i += GROUP_ROWS * GROUP_COLUMNS)
                b_stage[p][i] = CALL(load, WEIGHT_TYPE)(weights + source * panel_size + (ulong)begin * PANEL_COLUMNS + i);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        __local const float *a_step = a_stage + lane;
        __local const float *b_step = b_stage[get_local_id(1)];
        for (uint k = 0; k < steps; k++) {
            MULTIPLY_STEP(a_step, vload16(v, b_step));
            a_step += TILE_ROWS;
            b_step += PANEL_COLUMNS;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (panel >= panels)
        return;
#endif

    const bool gated = form != FORM_ROWS && !UNGATED;
    __global const float *biases =
        VIEW(const float, biases) + (biased ? (ulong)entry.x * (gated ? 2 * width : width) : 0);
    __global float *output = VIEW(float, output);
    for (uint v = 0; v < ITEM_VECTORS; v++) {
        const uint column = panel * PANEL_COLUMNS + 16 * v, first = gated ? column / 2 : column;
        struct columns bias;
        if (biased)
            bias = load_biases(biases, gated, width, first);
        for (uint r = 0; r < ITEM_ROWS; r++) {
            struct columns columns = halves(sum[r][v]);
            if (biased) {
                columns.low += bias.low;
                columns.high += bias.high;
            }
            if (lane + r < entry.z || form == FORM_ACTIVATED_PACKED)
                store_columns(output, form, width, first, entry.y + lane + r,
                              place_of(((ulong)tile * width + first) * TILE_ROWS + lane + r, TILE_ROWS, 0), false,
                              columns);
        }
    }
}
