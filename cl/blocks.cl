/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.cl - the blocks of rows that work-items of vector.cl, in front of which it stands, go by; and where the
 * elements of A lie in them.
 *
 * Shapes: n_e = offsets[e+1] - offsets[e] rows of expert e, in expert order; offsets are known to the device alone.
 *
 * A group's (expert's) rows are cut into as few tiles of at most ITEM_ROWS as there must be, evenly: 13 rows are tiles
 * of 5, 4 and 4 and not of 6, 6 and 1, since a low tile leaves arithmetic units idle. Tiles are joined to as few blocks
 * of at most BLOCK_TILES, evenly too.
 *
 * Layout: the map has 4 uint a block: expert, first row, rows (0: a surplus block), unused; no expert without rows has
 * any
 *
 *                [block 0: expert, first, rows, 0 | block 1: .. | .. | surplus: 0, 0, 0, 0 | ..]
 *
 * Rows of the only group (ALONE) need no map, since every work-item can tell where a block of theirs begins. Nor do one
 * token's rows (BY_CHOICE): row j is of the expert that is its choice j, the map is ids, and is a block by itself.
 *
 * A goes by chunks of DEPTH_STEPS steps of all rows: those of the first row of all, then those of the second. For AMX,
 * a chunk's tiles follow each other, so that what one register takes lies together. Where values have two PIECES
 * (columns.cl), the first ones lie before the second ones:
 *
 *                [tile 0: steps 0 to 31: r0: .. | r1: .. | ..; second pieces; steps 32 to 63: r0: .. | ..] [tile 1: ..]
 *
 * Behind K nothing is read, but by AMX a zero where K is odd.
 *
 * Launch: vector_map by one work-item. Of the rows by group there are at most ceil(rows / rows a block) + min(E, rows)
 * blocks, of an only group's ceil(rows / rows a block), of one token's a block a choice.
 *
 * Deterministic: integers, in order. */

#ifndef ITEM_ROWS
#define ITEM_ROWS 6
#endif
#ifndef BLOCK_TILES
#define BLOCK_TILES 16
#endif
#ifndef DEPTH_STEPS
#define DEPTH_STEPS 256
#endif
#ifndef PAIRS_AMX
#define PAIRS_AMX 0
#endif
#define A_STEPS (PAIRS_AMX ? 32 : DEPTH_STEPS) /* steps of a row of A that lie together */
#define CHUNK_ELEMENTS (DEPTH_STEPS * PIECES)  /* of a row of A in a chunk */

/* The order of rows; enum moecl_order of runtime/experts/variant.h has the same. */
#define BY_GROUP 0u
#define BY_CHOICE 1u
#define ALONE 2u

/* Rows cut evenly into parts: the first `tall` have `height` rows, the others one less. */
struct parts {
    uint count, height, tall;
};

inline struct parts cut(uint rows, uint count)
{
    struct parts parts;
    parts.count = count;
    parts.height = (rows + count - 1) / count;
    parts.tall = count - (parts.height * count - rows); /* no remainder: Oclgrind knows no `freeze`, which it brings */
    return parts;
}

/* Where part i begins. */
inline uint part_begin(struct parts parts, uint i)
{
    return (parts.height - 1) * i + min(i, parts.tall);
}

struct block {
    uint group, first, rows;
};

/* The tiles of a block, as this program has them: AMX's are higher than those that make the blocks. None of a surplus
 * one's. */
inline struct parts tiles_of(uint rows)
{
    const struct parts none = {0, 0, 0};
    return rows ? cut(rows, (rows + ITEM_ROWS - 1) / ITEM_ROWS) : none;
}

inline uint tile_height(struct parts tiles, uint tile)
{
    return tiles.height - (tile >= tiles.tall);
}

/* Where in A step `step` of row `row` of a tile lies, that has `height` rows and begins at row `top` of `total_rows`. A
 * second piece lies pieces_apart() behind it. */
inline ulong packed_element(uint total_rows, uint top, uint height, uint row, uint step)
{
    const uint chunk = step / DEPTH_STEPS, in_chunk = step % DEPTH_STEPS;
    const ulong tile = ((ulong)chunk * total_rows + top) * CHUNK_ELEMENTS;
    return tile + ((ulong)(in_chunk / A_STEPS) * PIECES * height + row) * A_STEPS + in_chunk % A_STEPS;
}

inline ulong pieces_apart(uint height)
{
    return (ulong)height * A_STEPS;
}

/* One by one: Oclgrind takes a vector put together from variables and a constant for uninitialised. */
inline void set_block(__global uint *entry, struct block block)
{
    entry[0] = block.group;
    entry[1] = block.first;
    entry[2] = block.rows;
    entry[3] = 0;
}

/* How a group's rows become blocks. */
struct blocks {
    struct parts tiles, blocks; /* rows cut into tiles, tiles into blocks */
};

inline struct blocks cut_group(uint rows)
{
    const uint tile_count = (rows + ITEM_ROWS - 1) / ITEM_ROWS;
    struct blocks cuts;
    cuts.tiles = cut(rows, tile_count);
    cuts.blocks = cut(tile_count, (tile_count + BLOCK_TILES - 1) / BLOCK_TILES);
    return cuts;
}

/* Block i of a group whose rows begin at `first`. */
inline struct block block_of_group(struct blocks cuts, uint group, uint first, uint i)
{
    const uint begin = part_begin(cuts.tiles, part_begin(cuts.blocks, i));
    struct block block;
    block.group = group;
    block.first = first + begin;
    block.rows = part_begin(cuts.tiles, part_begin(cuts.blocks, i + 1)) - begin;
    return block;
}

/* One work-item: writes the blocks of one expert after the other, then the surplus ones. That takes less than counting
 * the blocks of all experts before its own would take a work-item an expert. Rows from `rows` on are left out, whatever
 * the offsets say. */
__kernel void vector_map(__global const uint *offsets_memory, ulong offsets_offset, uint groups, uint rows, uint bound,
                         __global uint *map_memory, ulong map_offset)
{
    __global const uint *offsets = VIEW(const uint, offsets);
    __global uint *map = VIEW(uint, map);
    if (get_global_id(0) != 0)
        return;
    uint entry = 0, first = min(offsets[0], rows);
    for (uint group = 0; group < groups; group++) {
        const uint end_row = min(offsets[group + 1], rows);
        if (end_row > first) {
            const struct blocks cuts = cut_group(end_row - first);
            for (uint i = 0; i < cuts.blocks.count && entry < bound; i++, entry++)
                set_block(map + 4 * entry, block_of_group(cuts, group, first, i));
        }
        first = end_row;
    }
    const struct block surplus = {0, 0, 0};
    for (; entry < bound; entry++)
        set_block(map + 4 * entry, surplus);
}

/* Block i of `rows` rows. A choice that is no expert becomes a group that no product has. */
inline struct block block_at(__global const uint *map, uint order, uint rows, uint i)
{
    struct block block = {0, i, 1};
    if (order == ALONE) {
        const struct blocks cuts = cut_group(rows);
        block.rows = 0;
        if (i < cuts.blocks.count)
            block = block_of_group(cuts, 0, 0, i);
    } else if (order == BY_CHOICE) {
        block.group = map[i];
    } else {
        block.group = map[4 * i];
        block.first = map[4 * i + 1];
        block.rows = map[4 * i + 2];
    }
    return block;
}
