/* SPDX-License-Identifier: Apache-2.0 */
/* amx_bodies.cl - the products of a tile and a panel of pairs in AMX's tile registers; stands behind amx.cl and
 * panels.cl and in front of vector.cl.
 *
 * Shapes: A of a tile of up to 32 rows as blocks.cl has it, [steps/32][row][32]; B of a chunk of a panel
 * [steps/2][PANEL_COLUMNS][2]; sums [row][PANEL_COLUMNS] float. No kernels, so no launch.
 *
 * A is read past the first-level cache, where B's chunk stays while the tiles go by: with both in there, each pushes
 * the other out, and reading both from the second level takes longer than the products. What comes next of B is fetched
 * no nearer than that for the same reason.
 *
 * Deterministic: 16 pairs at a time are added to a sum, in rising order, their first steps apart from their second
 * ones. */

#if PAIRS_AMX
#define SUMS_STRIDE (PANEL_COLUMNS * sizeof(float))
#define FOR_EACH_SUMS(DO)                                                                                              \
    DO(0, sums, SUMS_STRIDE);                                                                                          \
    if (ITEM_VECTORS == 2)                                                                                             \
        DO(1, sums + 16, SUMS_STRIDE);                                                                                 \
    if (lower)                                                                                                         \
        DO(2, lower_sums, SUMS_STRIDE);                                                                                \
    if (lower && ITEM_VECTORS == 2)                                                                                    \
        DO(3, lower_sums + 16, SUMS_STRIDE);
#define CLEAR(tile, at, stride) TILE_CLEAR(tile)

/* A call passes the structure `ahead` through memory, and reads it before what was written of it can be read: that
 * waits for all stores of tiles before. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* What a work-item multiplies with. */
struct multiplier {
    bool first;       /* sums begin: nothing is in their memory yet */
    uint rows, pairs; /* for which the registers are configured; 0: not yet */
};

inline struct multiplier multiplier_begin(void)
{
    const struct multiplier multiplier = {true, 0, 0};
    return multiplier;
}

/* Before `rows` rows of sums begin. */
inline void multiplier_clear(struct multiplier *multiplier, uint rows, float *sums)
{
    multiplier->first = true;
}

inline void multiplier_end(void)
{
    TILE_RELEASE();
}

/* Only where shapes change: it takes as long as the products of four tiles. */
inline void configure_for(uint rows, uint pairs, struct multiplier *multiplier)
{
    if (multiplier->rows == rows && multiplier->pairs == pairs)
        return;
    configure_tiles(rows, pairs);
    multiplier->rows = rows;
    multiplier->pairs = pairs;
}

/* Adds to the sums, or, `first`, sets them to, the products over `count` times `pairs` pairs of steps. */
ALWAYS_INLINE void multiply_pairs(__global const ushort *a, __global const ushort *b, uint rows, uint pairs, uint count,
                                  struct ahead ahead, bool first, struct multiplier *multiplier, float *sums)
{
    const bool lower = rows > TILE_ROWS;
    const uint lower_a = TILE_ROWS * A_STEPS, fetched = pairs / FETCH_STREAMS * ahead.stride;
    float *lower_sums = sums + TILE_ROWS * PANEL_COLUMNS;
    configure_for(rows, pairs, multiplier);
    if (first) {
        FOR_EACH_SUMS(CLEAR)
    } else {
        FOR_EACH_SUMS(TILE_LOAD)
    }
    for (uint i = 0; i < count; i++, a += rows * A_STEPS, b += 2 * pairs * PANEL_COLUMNS, ahead.at += fetched) {
        for (uint stream = 0; stream < FETCH_STREAMS; stream++)
            for (uint byte = 0; byte < fetched; byte += LINE_BYTES)
                fetch_far(ahead.at + stream * ahead.apart + byte);
        TILE_STREAM(4, a, 2 * A_STEPS);
        TILE_LOAD(6, b, STEP_BYTES);
        TILE_MULTIPLY(0, 4, 6);
        if (lower) {
            TILE_STREAM(5, a + lower_a, 2 * A_STEPS);
            TILE_MULTIPLY(2, 5, 6);
        }
        if (ITEM_VECTORS == 2) {
            TILE_LOAD(7, b + 32, STEP_BYTES);
            TILE_MULTIPLY(1, 4, 7);
            if (lower)
                TILE_MULTIPLY(3, 5, 7);
        }
    }
    FOR_EACH_SUMS(TILE_STORE)
}

/* The same over the steps of a chunk: pairs 16 at a time, then those left, and the last of an odd number of steps by
 * itself. */
ALWAYS_INLINE void multiply_tile(__global const ushort *a, __global const ushort *b, uint rows, uint steps,
                                 struct ahead ahead, struct multiplier *multiplier, float *sums)
{
    const uint pairs = steps / 2, count = pairs / TILE_PAIRS, done = count * TILE_PAIRS;
    const bool first = multiplier->first;
    if (count > 0)
        multiply_pairs(a, b, rows, TILE_PAIRS, count, ahead, first, multiplier, sums);
    if (done < pairs)
        multiply_pairs(a + packed_element(0, 0, rows, 0, 2 * done), b + 2 * done * PANEL_COLUMNS, rows, pairs - done, 1,
                       ahead_from(ahead, done), first && count == 0, multiplier, sums);
    if (steps % 2 == 0)
        return;
    for (uint i = 0; i < rows * ITEM_VECTORS; i++) {
        const uint16 weights = load_vector(b + 2 * pairs * PANEL_COLUMNS + i % ITEM_VECTORS * 32);
        const float16 sum = first && pairs == 0 ? (float16)(0.0f) : vload16(i, sums);
        vstore16(add_last_product(sum, a + packed_element(0, 0, rows, i / ITEM_VECTORS, 2 * pairs), weights), i, sums);
    }
}
#endif
