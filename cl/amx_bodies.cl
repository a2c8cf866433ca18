/* SPDX-License-Identifier: Apache-2.0 */
/* amx_bodies.cl - the products of a tile and a panel of pairs in AMX's tile registers, of a single row by itself to the
 * same bits; stands behind amx.cl and panels.cl and in front of vector.cl.
 *
 * Shapes: A of a tile of up to 32 rows as blocks.cl has it, [steps/32][row][32]; B of a chunk of a panel
 * [steps/2][PANEL_COLUMNS][2]; sums [row][PANEL_COLUMNS] float. No kernels, so no launch.
 *
 * A is read past the first-level cache, where B's chunk stays while the tiles go by: with both in there, each pushes
 * the other out, and reading both from the second level takes longer than the products. What comes next of B is fetched
 * no nearer than that for the same reason.
 *
 * Deterministic: 16 pairs at a time are added to a sum, in rising order, their first steps apart from their second
 * ones; a single row's too, though not by tiles. */

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

/* Before `rows` rows of sums begin, of a low tile or of others, which are set at first. */
inline void multiplier_clear(struct multiplier *multiplier, uint rows, bool low, float *sums)
{
    multiplier->first = true;
    for (uint i = 0; low && i < rows * ITEM_VECTORS; i++)
        vstore16((float16)(0.0f), i, sums);
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
            for (uint byte = -(uint)ahead.at % ahead.gap; byte < fetched; byte += ahead.gap)
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

/* A single row multiplies LOW_PANELS panels at once in vector registers, to the bits that tiles come to: one panel by
 * tiles took 1.07 times as long. */
#define LOW_ROWS 1
#define LOW_VECTORS (LOW_PANELS * ITEM_VECTORS)
#define FOR_EACH_VECTOR(v) _Pragma("unroll") for (uint v = 0; v < LOW_VECTORS; v++)

/* From here on subnormal numbers count as zero, as tiles have it. Returns what end_flushing() goes back to. `sums` is
 * where results go: compilers may not move what makes them over the border. */
inline uint begin_flushing(float *sums)
{
    uint before, flushing;
    __asm__ volatile("stmxcsr %0" : "=m"(before));
    flushing = before | 0x8040;
    __asm__ volatile("ldmxcsr %0" : : "m"(flushing), "r"(sums) : "memory");
    return before;
}

inline void end_flushing(uint before, float *sums)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(before), "r"(sums) : "memory");
}

/* Adds the products of 16 pairs of steps or fewer: of the first steps, of the second ones, then both. */
inline void add_low_pairs(__global const ushort *a, __global const ushort *b, ulong panel_size, uint pairs,
                          float16 *sum)
{
    float16 first[LOW_VECTORS], second[LOW_VECTORS];
    FOR_EACH_VECTOR(v) first[v] = second[v] = (float16)(0.0f);
    for (uint k = 0; k < pairs; k++, a += 2, b += 2 * PANEL_COLUMNS) {
        const uint x = *(__global const uint *)a;
        FOR_EACH_VECTOR(v)
        {
            __global const ushort *from = b + v / ITEM_VECTORS * panel_size + 32 * (v % ITEM_VECTORS);
            const uint16 weights = load_vector(from);
            fetch((ulong)from + LOW_AHEAD);
            first[v] += as_float(x << 16) * as_float16(weights << 16);
            second[v] += as_float(x & 0xffff0000u) * as_float16(weights & 0xffff0000u);
        }
    }
    FOR_EACH_VECTOR(v) sum[v] += first[v] + second[v];
}

/* The products of a row and LOW_PANELS panels, `panel_size` apart, over the steps of a chunk. */
inline void multiply_low(__global const ushort *a, __global const ushort *b, ulong panel_size, uint height, uint steps,
                         float *sums)
{
    const uint pairs = steps / 2, before = begin_flushing(sums);
    float16 sum[LOW_VECTORS];
    FOR_EACH_VECTOR(v) sum[v] = vload16(v, sums);
    for (uint done = 0; done < pairs; done += TILE_PAIRS)
        add_low_pairs(a + 2 * done, b + 2 * done * PANEL_COLUMNS, panel_size, min(pairs - done, (uint)TILE_PAIRS), sum);
    FOR_EACH_VECTOR(v) vstore16(sum[v], v, sums);
    end_flushing(before, sums);
    if (steps % 2)
        FOR_EACH_VECTOR(v)
        vstore16(add_last_product(vload16(v, sums), a + 2 * pairs,
                                  load_vector(b + v / ITEM_VECTORS * panel_size + 2 * pairs * PANEL_COLUMNS +
                                              32 * (v % ITEM_VECTORS))),
                 v, sums);
}
#endif
