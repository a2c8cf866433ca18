/* SPDX-License-Identifier: Apache-2.0 */
/* vector.cl - the grouped GEMM of CPUs: C_e = A_e B_e^T for every expert e, by work-items of their own, in registers.
 *
 * Shapes: A_e [n_e,K] the rows of expert e in expert order, B_e [N,K] its weights, C_e [n_e,N]; n_e = offsets[e+1] -
 * offsets[e] is known to the device alone. A gated product has two matrices an expert, gate and up. A product may have
 * biases, f32 [E][N], gated [E][2N] (gate's, then up's); what becomes of it then is activation.cl's business.
 *
 * An expert's rows are cut into as few tiles of at most ITEM_ROWS as there must be, evenly: 13 rows are tiles of 4, 4
 * and 5 and not of 6, 6 and 1, since a low tile leaves arithmetic units idle. Tiles are joined to as few blocks of at most
 * BLOCK_TILES, evenly too. Every height has a body of its own, so no tile pays for rows it has not.
 *
 * Layouts:
 *   A, packed    tiles one after the other, rows and no gaps: the tile that begins at row r begins at r x K
 *
 *                [tile of 4: k=0: r0 r1 r2 r3 | k=1: r0 r1 r2 r3 | ..] [tile of 5: ..]       float
 *
 *   B, panels    PANEL_COLUMNS columns of C a panel, K steps deep; columns past N are zero. Gated: of every 16 columns
 *                of a panel, 8 are of gate and the next 8 of up, so that both halves of a column of C meet in one vector
 *
 *                [panel 0: k=0: c0 c1 .. | k=1: c0 c1 .. | ..] [panel 1: ..]     WEIGHT_TYPE
 *
 *   C            rows in expert order [rows,N], float; or packed as A is, to be the next product's A
 *   blocks       4 uint a block: expert, first row, rows (0: a surplus block), unused; no expert without rows has any
 *
 * Launch: groups of one work-item; no local memory, no barrier. Work-item (s, q, block) multiplies tiles s, s + splits,
 * .. of a block by panels 2q and 2q + 1. They run one after the other, s first: the two panels come from memory once for
 * all of a block, and stay in cache. Low tiles multiply both panels at once: one row alone has too few sums to keep the
 * multipliers busy. `splits` is for products of few panels. The grid has the most blocks there can be, ceil(rows / rows a
 * block) + min(E, rows); surplus work-items return.
 *
 * Deterministic: every element is one fp32 sum over k in rising order, by one work-item, in whichever body. */

#ifndef WEIGHT_TYPE
#define WEIGHT_TYPE f32
#endif
#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif
#ifndef ITEM_ROWS
#define ITEM_ROWS 6
#endif
#ifndef ITEM_VECTORS
#define ITEM_VECTORS 1
#endif
#ifndef BLOCK_TILES
#define BLOCK_TILES 16
#endif

#define PANEL_COLUMNS (16 * ITEM_VECTORS)
#define BLOCK_ROWS (BLOCK_TILES * ITEM_ROWS)
#define PAIR_ROWS (ITEM_ROWS / 3) /* tiles of at most that many rows multiply both panels at once */

/* The row at which part `i` begins when `rows` rows are cut evenly into `parts`. */
inline uint part_begin(uint rows, uint i, uint parts)
{
    return (uint)((ulong)rows * i / parts);
}

/* One by one: Oclgrind takes a vector put together from variables and a constant for uninitialised. */
inline void set_block(__global uint *entry, uint group, uint first_row, uint rows)
{
    entry[0] = group;
    entry[1] = first_row;
    entry[2] = rows;
    entry[3] = 0;
}

/* One work-item an expert: writes its blocks; the last expert writes the surplus ones. Rows from `rows` on are left out,
 * whatever the offsets say. */
__kernel void vector_map(__global const uint *offsets_memory, ulong offsets_offset, uint groups, uint rows, uint bound,
                         __global uint *map_memory, ulong map_offset)
{
    __global const uint *offsets = VIEW(const uint, offsets);
    __global uint *map = VIEW(uint, map);
    const uint group = get_global_id(0);
    if (group >= groups)
        return;
    uint block = 0;
    for (uint before = 0; before < group; before++)
        block += (min(offsets[before + 1], rows) - min(offsets[before], rows) + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const uint first = min(offsets[group], rows), count = min(offsets[group + 1], rows) - first;
    const uint tiles = (count + ITEM_ROWS - 1) / ITEM_ROWS, parts = (tiles + BLOCK_TILES - 1) / BLOCK_TILES;
    for (uint i = 0; i < parts && block < bound; i++, block++) {
        const uint begin = part_begin(count, part_begin(tiles, i, parts), tiles);
        const uint end = part_begin(count, part_begin(tiles, i + 1, parts), tiles);
        set_block(map + 4 * block, group, first + begin, end - begin);
    }
    if (group == groups - 1)
        for (; block < bound; block++)
            set_block(map + 4 * block, 0, 0, 0);
}

/* Gathers the rows of A into tiles: work-item (d, block) brings PACK_DEPTH steps of a block's rows. Row r of the
 * product is row assignments[r] / divisor of x, or row r itself where divisor is 0; where `weighted`, times
 * row_weights[assignments[r]], or row_weights[r]. NaN or infinity in x raises the bits `flag`. */
#define PACK_DEPTH 16
__kernel void vector_pack(__global const uchar *x_memory, ulong x_offset, __global const uint *assignments_memory,
                          ulong assignments_offset, uint divisor, uint weighted,
                          __global const uchar *row_weights_memory, ulong row_weights_offset,
                          __global const uint *map_memory, ulong map_offset, uint depth, uint bound,
                          __global float *packed_memory, ulong packed_offset, __global uint *flag_memory,
                          ulong flag_offset, uint flag)
{
    __global const ELEMENT(ACTIVATION_TYPE) *x = VIEW(const ELEMENT(ACTIVATION_TYPE), x);
    __global const uint *assignments = VIEW(const uint, assignments);
    const uint begin = get_global_id(0) * PACK_DEPTH, end = min(begin + PACK_DEPTH, depth);
    const uint block = get_global_id(1);
    if (begin >= depth || block >= bound)
        return;
    __global const uint *entry = VIEW(const uint, map) + 4 * block;
    const uint first = entry[1], rows = entry[2];
    const uint tiles = (rows + ITEM_ROWS - 1) / ITEM_ROWS;
    bool finite = true;
    for (uint tile = 0; tile < tiles; tile++) {
        const uint top = part_begin(rows, tile, tiles), height = part_begin(rows, tile + 1, tiles) - top;
        __global float *packed = VIEW(float, packed) + (ulong)(first + top) * depth;
        for (uint r = 0; r < height; r++) {
            const uint row = first + top + r;
            const uint assignment = divisor ? assignments[row] : row;
            const uint source = divisor ? assignment / divisor : assignment;
            const float weight = weighted ? VIEW(const float, row_weights)[assignment] : 1.0f;
            for (uint k = begin; k < end; k++) {
                const float value = CALL(load, ACTIVATION_TYPE)(x + (ulong)source * depth + k);
                finite = finite && is_finite(value);
                packed[(ulong)k * height + r] = value * weight;
            }
        }
    }
    if (!finite && flag)
        atomic_or(VIEW(uint, flag), flag);
}

/* multiply_ROWS_PANELS: the sums of a tile of ROWS rows and PANELS panels, which lie panel_size apart, to
 * sums [panel][ITEM_ROWS][PANEL_COLUMNS]. Loops are unrolled, or the sums would not be registers. */
#define DEFINE_BODY(ROWS, PANELS)                                                                                      \
    inline void multiply_##ROWS##_##PANELS(__global const float *a, __global const ELEMENT(WEIGHT_TYPE) *b,            \
                                           ulong panel_size, uint depth, float *sums)                                  \
    {                                                                                                                  \
        float16 sum[ROWS][PANELS * ITEM_VECTORS];                                                                      \
        _Pragma("unroll") for (uint r = 0; r < ROWS; r++)                                                              \
            _Pragma("unroll") for (uint v = 0; v < PANELS * ITEM_VECTORS; v++) sum[r][v] = (float16)(0.0f);            \
        for (uint k = 0; k < depth; k++, a += ROWS, b += PANEL_COLUMNS) {                                              \
            _Pragma("unroll") for (uint v = 0; v < PANELS * ITEM_VECTORS; v++)                                         \
            {                                                                                                          \
                const float16 weight =                                                                                 \
                    CALL(load16, WEIGHT_TYPE)(b + v / ITEM_VECTORS * panel_size + 16 * (v % ITEM_VECTORS));            \
                _Pragma("unroll") for (uint r = 0; r < ROWS; r++) sum[r][v] += a[r] * weight;                          \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("unroll") for (uint r = 0; r < ROWS; r++)                                                              \
            _Pragma("unroll") for (uint v = 0; v < PANELS * ITEM_VECTORS; v++) vstore16(                               \
                sum[r][v], (v / ITEM_VECTORS * ITEM_ROWS + r) * ITEM_VECTORS + v % ITEM_VECTORS, sums);                \
    }

/* X(rows) for every height a tile may have. */
#define FOR_EACH_HEIGHT_TO_6(X) X(1) X(2) X(3) X(4) X(5) X(6)
#if ITEM_ROWS == 6
#define FOR_EACH_HEIGHT(X) FOR_EACH_HEIGHT_TO_6(X)
#elif ITEM_ROWS == 8
#define FOR_EACH_HEIGHT(X) FOR_EACH_HEIGHT_TO_6(X) X(7) X(8)
#elif ITEM_ROWS == 10
#define FOR_EACH_HEIGHT(X) FOR_EACH_HEIGHT_TO_6(X) X(7) X(8) X(9) X(10)
#elif ITEM_ROWS == 12
#define FOR_EACH_HEIGHT(X) FOR_EACH_HEIGHT_TO_6(X) X(7) X(8) X(9) X(10) X(11) X(12)
#endif
#if PAIR_ROWS == 2
#define FOR_EACH_PAIR_HEIGHT(X) X(1) X(2)
#elif PAIR_ROWS == 3
#define FOR_EACH_PAIR_HEIGHT(X) X(1) X(2) X(3)
#elif PAIR_ROWS == 4
#define FOR_EACH_PAIR_HEIGHT(X) X(1) X(2) X(3) X(4)
#endif

#define DEFINE_SINGLE(rows) DEFINE_BODY(rows, 1)
#define DEFINE_PAIR(rows) DEFINE_BODY(rows, 2)
FOR_EACH_HEIGHT(DEFINE_SINGLE)
FOR_EACH_PAIR_HEIGHT(DEFINE_PAIR)

#define CASE_SINGLE(rows)                                                                                              \
    case rows:                                                                                                         \
        multiply_##rows##_1(a, b, panel_size, depth, sums);                                                            \
        break;
#define CASE_PAIR(rows)                                                                                                \
    case rows:                                                                                                         \
        multiply_##rows##_2(a, b, panel_size, depth, sums);                                                            \
        break;

/* The sums of a tile and of `count` panels, 1 or 2. */
inline void multiply_tile(__global const float *a, __global const ELEMENT(WEIGHT_TYPE) *b, ulong panel_size, uint depth,
                          uint height, uint count, float *sums)
{
    if (count == 2 && height <= PAIR_ROWS) {
        switch (height) {
            FOR_EACH_PAIR_HEIGHT(CASE_PAIR)
        }
        return;
    }
    for (uint p = 0; p < count; p++, b += panel_size, sums += ITEM_ROWS * PANEL_COLUMNS) {
        switch (height) {
            FOR_EACH_HEIGHT(CASE_SINGLE)
        }
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
vector_multiply(__global const float *packed_memory, ulong packed_offset, __global const uchar *weights_memory,
                ulong weights_offset, __global const uint *map_memory, ulong map_offset, uint bound, uint depth,
                uint width, uint panels, uint first_group, uint end_group, uint splits, uint biased,
                __global const uchar *biases_memory, ulong biases_offset, uint form, __global float *output_memory,
                ulong output_offset)
{
    const uint block = get_global_id(2), panel = 2 * get_global_id(1);
    if (block >= bound || panel >= panels)
        return;
    __global const uint *entry = VIEW(const uint, map) + 4 * block;
    const uint group = entry[0], first = entry[1], rows = entry[2];
    if (rows == 0 || group < first_group || group >= end_group)
        return;
    const uint count = min(panels - panel, 2u), tiles = (rows + ITEM_ROWS - 1) / ITEM_ROWS;
    const ulong panel_size = (ulong)depth * PANEL_COLUMNS;
    __global const ELEMENT(WEIGHT_TYPE) *b = VIEW(const ELEMENT(WEIGHT_TYPE), weights) +
                                             ((ulong)(group - first_group) * panels + panel) * panel_size;
    __global float *output = VIEW(float, output);
    const bool gated = form != FORM_ROWS && !UNGATED;
    __global const float *biases = VIEW(const float, biases) + (biased ? (ulong)group * (gated ? 2 * width : width) : 0);

    for (uint tile = get_global_id(0); tile < tiles; tile += splits) {
        const uint top = part_begin(rows, tile, tiles), height = part_begin(rows, tile + 1, tiles) - top;
        float sums[2 * ITEM_ROWS * PANEL_COLUMNS];
        multiply_tile(VIEW(const float, packed) + (ulong)(first + top) * depth, b, panel_size, depth, height, count,
                      sums);
        for (uint v = 0; v < count * ITEM_VECTORS; v++) {
            const uint column = panel * PANEL_COLUMNS + 16 * v;
            float16 bias = (float16)(0.0f);
            if (biased)
                bias = load_biases(biases, gated, width, column);
            for (uint r = 0; r < height; r++) {
                float16 sum = vload16((v / ITEM_VECTORS * ITEM_ROWS + r) * ITEM_VECTORS + v % ITEM_VECTORS, sums);
                if (biased)
                    sum += bias;
                store_columns(output, form, width, column, first + top + r, (ulong)(first + top) * width + r, height,
                              sum);
            }
        }
    }
}
