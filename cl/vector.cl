/* SPDX-License-Identifier: Apache-2.0 */
/* vector.cl - the grouped GEMM of CPUs: C_e = A_e B_e^T for every expert e, by work-items of their own, in registers.
 *
 * Shapes: A_e [n_e,K] the rows of expert e in expert order, B_e [N,K] its weights, C_e [n_e,N]; n_e = offsets[e+1] -
 * offsets[e] is known to the device alone. A gated product has two matrices an expert, gate and up. A product may have
 * biases, f32 [E][N], gated [E][2N] (gate's, then up's); what becomes of it then is activation.cl's business.
 *
 * An expert's rows are cut into tiles of at most ITEM_ROWS, and these joined to blocks: blocks.cl, which has A's layout
 * too. B's is in panels.cl; C is rows in expert order [rows,N], float, or as A is, to be the next product's A. What
 * multiplies a tile by a panel is in bodies.cl, or, by AMX, in amx_bodies.cl. All stand in front of this file.
 *
 * One token's product may read x, which all its rows share, in place of A: each work-item converts it anew, which is
 * nothing beside its weights, and a launch is saved.
 *
 * Launch: groups of one work-item; no local memory, no barrier. Work-item (s, q, block) multiplies tiles s, s + splits,
 * .. of a block by `item_panels` panels from q * item_panels on, chunk by chunk: a chunk of a panel stays in the
 * first-level cache while the tiles go by. A low tile multiplies several panels at once. `splits` is for products of
 * few panels: a block of all rows goes to so many work-items, one of fewer rows to as many fewer, since each reads the
 * weights anew. The grid has the most blocks there can be, the last block first: surplus work-items, which return, come
 * before the others, so that what OpenCL implementations do to end with all cores busy meets those that have work.
 *
 * Deterministic: every element is the sum, in rising order, of the sums of its chunks, each one fp32 sum over k in
 * rising order; by one work-item, the same in whichever body. AMX goes on with a sum from chunk to chunk. */

#define BLOCK_ROWS (BLOCK_TILES * ITEM_ROWS)

/* Brings `count` steps of a row times `weight` into A. Whether one of them is NaN or infinity. */
#if IN_PAIRS
/* What is multiplied in pairs is never weighted. Where it has pieces, the second ones lie `apart` behind the first. */
inline int pack_row(__global const ELEMENT(ACTIVATION_TYPE) *from, uint count, float weight, __global ushort *to,
                    uint apart)
{
    int16 wrong = (int16)(0);
    for (uint k = 0; k < count; k += 16) {
        __global ushort *packed = to + k / A_STEPS * PIECES * apart + k % A_STEPS;
        float16 values;
        if (k + 16 <= count) {
            values = CALL(load16, ACTIVATION_TYPE)(from + k);
        } else {
            float value[16];
            for (uint i = 0; i < 16; i++)
                value[i] = k + i < count ? CALL(load, ACTIVATION_TYPE)(from + k + i) : 0.0f;
            values = vload16(0, value);
        }
        wrong |= (as_int16(values) & 0x7f800000) == 0x7f800000;
#if PIECES == 2
        store_pieces16(packed, apart, values);
#else
        store_ushort16(convert_ushort16(as_uint16(values) >> 16), packed);
#endif
    }
    return any(wrong);
}
#else
inline int pack_row(__global const ELEMENT(ACTIVATION_TYPE) *from, uint count, float weight,
                    __global ELEMENT(PACKED_TYPE) *to, uint apart)
{
    int16 wrong = (int16)(0);
    uint k = 0;
    for (; k + 16 <= count; k += 16) {
        const float16 values = CALL(load16, ACTIVATION_TYPE)(from + k);
        wrong |= (as_int16(values) & 0x7f800000) == 0x7f800000;
        CALL(store16, PACKED_TYPE)(to + k, values * weight);
    }
    for (; k < count; k++) {
        const float value = CALL(load, ACTIVATION_TYPE)(from + k);
        wrong.s0 |= is_finite(value) ? 0 : -1;
        CALL(store, PACKED_TYPE)(to + k, value * weight);
    }
    return any(wrong);
}
#endif

/* Gathers the rows of A: work-item (c, block) brings chunk c of a block's rows. Row r of the product is row
 * assignments[r] / divisor of x, or row r itself where divisor is 0; where `weighted`, times
 * row_weights[assignments[r]], or row_weights[r]. One token's choice r is its own assignment. NaN or infinity in x
 * raises the bits `flag`. */
__kernel void vector_pack(__global const uchar *x_memory, ulong x_offset, __global const uint *assignments_memory,
                          ulong assignments_offset, uint divisor, uint weighted,
                          __global const uchar *row_weights_memory, ulong row_weights_offset, uint order,
                          __global const uint *map_memory, ulong map_offset, uint depth, uint total_rows, uint bound,
                          __global uchar *packed_memory, ulong packed_offset, __global uint *flag_memory,
                          ulong flag_offset, uint flag)
{
    __global const uint *assignments = VIEW(const uint, assignments);
    const uint chunk = get_global_id(0), begin = chunk * DEPTH_STEPS;
    if (begin >= depth || get_global_id(1) >= bound)
        return;
    const struct block block = block_at(VIEW(const uint, map), order, total_rows, get_global_id(1));
    const uint steps = min(depth - begin, (uint)DEPTH_STEPS);
    const struct parts tiles = tiles_of(block.rows);
    int wrong = 0;
    for (uint tile = 0; tile < tiles.count; tile++) {
        const uint first = part_begin(tiles, tile), height = tile_height(tiles, tile);
        for (uint i = 0; i < height; i++) {
            const uint row = block.first + first + i;
            const uint assignment = divisor && order == BY_GROUP ? assignments[row] : row;
            const uint source = divisor ? assignment / divisor : assignment;
            const float weight = weighted ? VIEW(const float, row_weights)[assignment] : 1.0f;
            wrong |= pack_row(VIEW(const ELEMENT(ACTIVATION_TYPE), x) + (ulong)source * depth + begin, steps, weight,
                              VIEW(ELEMENT(PACKED_TYPE), packed) +
                                  packed_element(total_rows, block.first + first, height, i, begin),
                              pieces_apart(height));
        }
    }
    if (wrong && flag)
        atomic_or(VIEW(uint, flag), flag);
}

/* Adds the products of a block's tiles, every `stride`-th from `begin` on, over a chunk. Each of n tiles fetches an
 * n-th of what lies a whole chunk on, the next panel's weights too, so that memory is read all the while that the
 * multipliers are busy, and not only during the first tile; a panel's last chunk may be short, and fetches no more than
 * it takes. Each fetches the rows of the tile that follows as well, which after the last one are of `next_a`. */
inline void multiply_chunk(struct parts tiles, uint begin, uint stride, __global const ELEMENT(PACKED_TYPE) *a,
                           __global const ELEMENT(PACKED_TYPE) *next_a, __global const ELEMENT(WEIGHT_TYPE) *b,
                           uint steps, struct multiplier *multiplier, float *block_sums)
{
    const uint count = (tiles.count - begin + stride - 1) / stride;
    struct ahead ahead = ahead_of(b, steps, count);
#if UNPACKED_TILES
    float unpacked[DEPTH_STEPS * PANEL_COLUMNS] __attribute__((aligned(64)));
    if (count >= UNPACKED_TILES)
        unpack_chunk(b, steps, unpacked);
#endif
#if PAIRS_AMX
    uint cut[PIECES == 2 ? CHUNK_ELEMENTS / 2 * PANEL_COLUMNS : 1] __attribute__((aligned(64)));
    struct chunk chunk = {b, cut, true};
#endif
    for (uint tile = begin; tile < tiles.count; tile += stride, ahead = ahead_from(ahead, steps / STEP)) {
        const uint top = part_begin(tiles, tile), height = tile_height(tiles, tile);
        __global const ELEMENT(PACKED_TYPE) *tile_a = a + (ulong)top * CHUNK_ELEMENTS;
        float *sums = block_sums + top * PANEL_COLUMNS;
#if ROWS_AHEAD
        const bool last = tile + stride >= tiles.count;
        ahead.rows = (ulong)((last ? next_a : a) + part_begin(tiles, last ? begin : tile + stride) * DEPTH_STEPS);
#endif
#if UNPACKED_TILES
        if (count >= UNPACKED_TILES) {
            multiply_unpacked_tile(tile_a, unpacked, height, steps, ahead, sums);
            continue;
        }
#endif
#if PAIRS_AMX
        multiply_tile(tile_a, chunk, height, steps, ahead, multiplier, sums);
        chunk.uncut = false;
#else
        multiply_tile(tile_a, b, height, steps, ahead, multiplier, sums);
#endif
    }
}

/* A row's columns of a panel as columns.cl takes them: gate's first, where there are such, then up's. */
inline struct columns columns_of(const float *sums, bool gated)
{
    struct columns columns;
#if ITEM_VECTORS == 2
    if (gated) {
        columns.low = (float16)(vload8(0, sums), vload8(2, sums));
        columns.high = (float16)(vload8(1, sums), vload8(3, sums));
        return columns;
    }
#endif
    columns.low = VLOAD(0, sums);
    columns.high = VLOAD(1, sums);
    return columns;
}

/* `packed` is A; or, of the type `x_type` and not TYPE_NONE, x's one row. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
vector_multiply(__global const uchar *packed_memory, ulong packed_offset, uint x_type,
                __global const uchar *weights_memory, ulong weights_offset, uint order, __global const uint *map_memory,
                ulong map_offset, uint total_rows, uint bound, uint depth, uint width, uint panels, uint item_panels,
                uint first_group, uint end_group, uint splits, uint biased, __global const uchar *biases_memory,
                ulong biases_offset, uint form, __global float *output_memory, ulong output_offset,
                __global uint *flag_memory, ulong flag_offset, uint flag)
{
    const uint first_panel = item_panels * get_global_id(1), end_panel = min(first_panel + item_panels, panels);
    if (get_global_id(2) >= bound || first_panel >= panels)
        return;
    const struct block block = block_at(VIEW(const uint, map), order, total_rows, bound - 1 - get_global_id(2));
    const uint group = block.group, first = block.first, rows = block.rows;
    const struct parts tiles = tiles_of(rows);
    splits = (splits * rows + total_rows - 1) / total_rows;
    if (get_global_id(0) >= min(tiles.count, splits) || group < first_group || group >= end_group)
        return;
    const bool gated = form != FORM_ROWS && !UNGATED;
    const bool streamed = streams(form, total_rows, width, VIEW(const float, output));
    const ulong panel_size = (ulong)((depth + STEP - 1) / STEP) * STEP * PANEL_COLUMNS;
    __global const ELEMENT(PACKED_TYPE) *a =
        VIEW(const ELEMENT(PACKED_TYPE), packed) + (ulong)first * CHUNK_ELEMENTS;
    __global const ELEMENT(WEIGHT_TYPE) *b =
        VIEW(const ELEMENT(WEIGHT_TYPE), weights) + (ulong)(group - first_group) * panels * panel_size;
    __global const float *biases =
        VIEW(const float, biases) + (biased ? (ulong)group * (gated ? 2 * width : width) : 0);
    struct multiplier multiplier = multiplier_begin();

    for (uint panel = first_panel, together; panel < end_panel; panel += together) {
        together = rows <= LOW_ROWS && end_panel - panel >= LOW_PANELS ? LOW_PANELS : 1;
        float sums[BLOCK_ROWS * PANEL_COLUMNS] __attribute__((aligned(64)));
        int wrong = 0;
        multiplier_clear(&multiplier, together > 1 ? LOW_PANELS * LOW_ROWS : rows, together > 1, sums);
        for (uint begin = 0; begin < depth; begin += DEPTH_STEPS) {
            __global const ELEMENT(WEIGHT_TYPE) *b_chunk = b + panel * panel_size + (ulong)begin * PANEL_COLUMNS;
            __global const ELEMENT(PACKED_TYPE) *a_chunk = a + (ulong)begin * total_rows * PIECES;
            const uint steps = min(depth - begin, (uint)DEPTH_STEPS);
#if !IN_PAIRS
            if (x_type != TYPE_NONE) {
                wrong |= multiply_x_chunk(VIEW(const uchar, packed), x_type, begin, together, b_chunk, panel_size,
                                          steps, sums);
                continue;
            }
#endif
#if LOW_ROWS
            if (together > 1) {
                multiply_low(a_chunk, b_chunk, panel_size, rows, steps, sums);
                continue;
            }
#endif
            multiply_chunk(tiles, get_global_id(0), splits, a_chunk,
                           begin + steps < depth ? a_chunk + (ulong)total_rows * DEPTH_STEPS : a, b_chunk, steps,
                           &multiplier, sums);
            multiplier.first = false;
        }
        if (wrong && flag)
            atomic_or(VIEW(uint, flag), flag);

        for (uint part = 0; part < together; part++) {
            const uint column = (panel + part) * PANEL_COLUMNS, n = gated ? column / 2 : column;
            struct columns bias = {(FLOATS)(0.0f), (FLOATS)(0.0f)};
            if (biased)
                bias = load_biases(biases, gated, width, n);
            for (uint tile = get_global_id(0); tile < tiles.count; tile += splits) {
                const uint top = part_begin(tiles, tile), height = tile_height(tiles, tile);
                for (uint r = 0; r < height; r++) {
                    struct columns columns = columns_of(sums + (part * LOW_ROWS + top + r) * PANEL_COLUMNS, gated);
                    columns.low += bias.low;
                    columns.high += bias.high;
                    store_columns(VIEW(float, output), form, width, n, first + top + r,
                                  place_of(packed_element(total_rows, first + top, height, r, n), 1,
                                           pieces_apart(height)),
                                  streamed, columns);
                }
            }
        }
    }
    multiplier_end();
    if (streamed)
        end_streams();
}
