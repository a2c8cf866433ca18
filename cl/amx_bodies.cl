/* SPDX-License-Identifier: Apache-2.0 */
/* amx_bodies.cl - the products of a tile and a panel of pairs in AMX's tile registers, of a single row by itself to the
 * same bits; stands behind amx.cl and panels.cl and in front of vector.cl.
 *
 * Shapes: A of a tile of up to 32 rows as blocks.cl has it, [steps/32][piece][row][32]; B of a chunk of a panel
 * [steps/2][PANEL_COLUMNS][2], which cut into two pieces becomes [steps/32][piece][16][PANEL_COLUMNS][2]; sums
 * [row][PANEL_COLUMNS] float. No kernels, so no launch.
 *
 * A is read past the first-level cache, where B's chunk stays while the tiles go by: with both in there, each pushes
 * the other out, and reading both from the second level takes longer than the products. What comes next of B is fetched
 * no nearer than that for the same reason, and once the tiles' own loads are under way (0.93 to 1.00 of the time).
 *
 * Deterministic: 16 pairs at a time are added to a sum, in rising order, their first steps apart from their second
 * ones; a single row's too, though not by tiles. Of two pieces, A's first by B's second, first by first, second by
 * first. */

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

/* Of the weights of a pair of steps, and of a piece of those of 32 steps. */
#define PAIR_BYTES (PANEL_COLUMNS * 2 * sizeof(ushort))
#define PIECE_BYTES (TILE_PAIRS * PAIR_BYTES)

#if PIECES == 2
/* Cuts the weights of two steps of 16 columns, `second` those of the later one. */
ALWAYS_INLINE void cut_pair(float16 first, float16 second, uint *to)
{
    const float16 upper = first_piece16(first), second_upper = first_piece16(second);
    *(uint16 *)to = as_uint16(upper) >> 16 | as_uint16(second_upper);
    *(uint16 *)(to + PIECE_BYTES / sizeof(uint)) =
        as_uint16(first - upper) >> 16 | (as_uint16(second - second_upper) & 0xffff0000u);
}

/* Cuts those of up to 32 steps of a panel. After an odd number of steps zeros follow. */
ALWAYS_INLINE void cut_weights(__global const ushort *b, uint steps, uint *to)
{
    uint k = 0;
    _Pragma("unroll 4") for (; k + 1 < steps; k += 2, b += 2 * PANEL_COLUMNS, to += PANEL_COLUMNS)
        _Pragma("unroll") for (uint v = 0; v < ITEM_VECTORS; v++)
            cut_pair(load_vector(b + 16 * v), load_vector(b + PANEL_COLUMNS + 16 * v), to + 16 * v);
    for (uint v = 0; k < steps && v < ITEM_VECTORS; v++)
        cut_pair(load_vector(b + 16 * v), (float16)(0.0f), to + 16 * v);
}
#endif

/* A chunk's weights, and where the first tile puts their pieces for the others, if there are two. */
struct chunk {
    __global const ushort *weights;
    uint *cut;
    bool uncut;
};

#define READ_A(at)                                                                                                     \
    TILE_STREAM(4, at, 2 * A_STEPS);                                                                                   \
    if (lower)                                                                                                         \
        TILE_STREAM(5, (at) + TILE_ROWS * A_STEPS, 2 * A_STEPS);
#define READ_B(at)                                                                                                     \
    TILE_LOAD(6, at, PAIR_BYTES);                                                                                      \
    if (ITEM_VECTORS == 2)                                                                                             \
        TILE_LOAD(7, (at) + TILE_BYTES, PAIR_BYTES);
#define MULTIPLY()                                                                                                     \
    TILE_MULTIPLY(0, 4, 6);                                                                                            \
    if (lower)                                                                                                         \
        TILE_MULTIPLY(2, 5, 6);                                                                                        \
    if (ITEM_VECTORS == 2)                                                                                             \
        TILE_MULTIPLY(1, 4, 7);                                                                                        \
    if (lower && ITEM_VECTORS == 2)                                                                                    \
        TILE_MULTIPLY(3, 5, 7);

/* Adds to the sums, or, `first`, sets them to, the products over `count` blocks of `steps` steps from step `begin` of a
 * chunk on. Weights are cut a block ahead of their products: tiles would wait for what has just been stored; and so the
 * two go on at the same time (0.85 of the time with 64 rows, to cutting a chunk first). */
ALWAYS_INLINE void multiply_blocks(__global const ushort *a, struct chunk chunk, uint begin, uint rows, uint steps,
                                   uint count, struct ahead ahead, bool first, struct multiplier *multiplier,
                                   float *sums)
{
    const bool lower = rows > TILE_ROWS;
    const uint pairs = (steps + 1) / 2, fetched = 2 * pairs / STEP / FETCH_STREAMS * ahead.stride;
    float *lower_sums = sums + TILE_ROWS * PANEL_COLUMNS;
#if PIECES == 2
    ulong b = (ulong)chunk.cut + begin / 2 * PIECES * PAIR_BYTES;
    __global const ushort *uncut = chunk.weights + begin * PANEL_COLUMNS;
    if (chunk.uncut)
        cut_weights(uncut, steps, (uint *)b);
#else
    ulong b = (ulong)(chunk.weights + begin * PANEL_COLUMNS);
#endif
    configure_for(rows, pairs, multiplier);
    if (first) {
        FOR_EACH_SUMS(CLEAR)
    } else {
        FOR_EACH_SUMS(TILE_LOAD)
    }
    for (uint i = 0; i < count; i++, a += PIECES * rows * A_STEPS, b += PIECES * PIECE_BYTES, ahead.at += fetched) {
#if PIECES == 2
        uncut += 2 * TILE_PAIRS * PANEL_COLUMNS;
        if (chunk.uncut && i + 1 < count)
            cut_weights(uncut, steps, (uint *)(b + PIECES * PIECE_BYTES));
#endif
        READ_A(a)
        READ_B(b + (PIECES - 1) * PIECE_BYTES)
        for (uint stream = 0; stream < FETCH_STREAMS; stream++)
            for (uint byte = -(uint)ahead.at % ahead.gap; byte < fetched; byte += ahead.gap)
                fetch_far(ahead.at + stream * ahead.apart + byte);
        MULTIPLY()
#if PIECES == 2
        READ_B(b)
        MULTIPLY()
        READ_A(a + pieces_apart(rows))
        MULTIPLY()
#endif
    }
    FOR_EACH_SUMS(TILE_STORE)
}

/* The same over the steps of a chunk: 32 at a time, then those left. */
ALWAYS_INLINE void multiply_tile(__global const ushort *a, struct chunk chunk, uint rows, uint steps,
                                 struct ahead ahead, struct multiplier *multiplier, float *sums)
{
    const uint count = steps / A_STEPS, done = count * A_STEPS;
    const bool first = multiplier->first;
    if (count > 0)
        multiply_blocks(a, chunk, 0, rows, A_STEPS, count, ahead, first, multiplier, sums);
    if (done < steps)
        multiply_blocks(a + packed_element(0, 0, rows, 0, done), chunk, done, rows, steps - done, 1,
                        ahead_from(ahead, done / STEP), first && count == 0, multiplier, sums);
}

/* A single row, of single pieces, multiplies LOW_PANELS panels at once in vector registers, to the bits that tiles come
 * to: one panel by tiles took 1.07 times as long. */
#if PIECES == 2
#define LOW_ROWS 0
#else
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
    const uint pairs = (steps + 1) / 2, before = begin_flushing(sums);
    float16 sum[LOW_VECTORS];
    FOR_EACH_VECTOR(v) sum[v] = vload16(v, sums);
    for (uint done = 0; done < pairs; done += TILE_PAIRS)
        add_low_pairs(a + 2 * done, b + 2 * done * PANEL_COLUMNS, panel_size, min(pairs - done, (uint)TILE_PAIRS), sum);
    FOR_EACH_VECTOR(v) vstore16(sum[v], v, sums);
    end_flushing(before, sums);
}
#endif
#endif
