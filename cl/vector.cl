/* SPDX-License-Identifier: Apache-2.0 */
/* vector.cl - the grouped GEMM of CPUs: C_e = A_e B_e^T for every expert e, by work-items of their own, in registers.
 *
 * Shapes: A_e [n_e,K] the rows of expert e in expert order, B_e [N,K] its weights, C_e [n_e,N]; n_e = offsets[e+1] -
 * offsets[e] is known to the device alone. A gated product has two matrices an expert, gate and up. A product may have
 * biases, f32 [E][N], gated [E][2N] (gate's, then up's); what becomes of it then is activation.cl's business.
 *
 * An expert's rows are cut into tiles of at most ITEM_ROWS, and these joined to blocks: blocks.cl, which stands in front
 * of this file. Every height has a body of its own, so no tile pays for rows it has not.
 *
 * Layouts:
 *   A, chunks    DEPTH_STEPS steps of all rows, then as many of the next; behind K nothing is written nor read
 *
 *                [steps 0 to 255: row 0: .. | row 1: .. | ..] [steps 256 to 511: row 0: .. | ..] ..          float
 *
 *   B, panels    PANEL_COLUMNS columns of C a panel, K steps deep; columns past N are zero. Gated: of every 16 columns
 *                of a panel, 8 are of gate and the next 8 of up, so that both halves of a column of C meet in a vector
 *
 *                [panel 0: k=0: c0 c1 .. | k=1: c0 c1 .. | ..] [panel 1: ..]     WEIGHT_TYPE
 *
 *                PAIRS, bf16: panels have pairs of steps for steps, which take fewer instructions to unpack
 *
 *                [panel 0: k=0,1: c0 c0 c1 c1 .. | k=2,3: c0 c0 c1 c1 .. | ..]
 *
 *                IN_PAIRS, bf16 by bf16: A holds bf16 too, and both are multiplied pair by pair, in plain code, by
 *                AVX512-BF16 or by AMX, which has tiles of up to 32 rows and no bodies of their own
 *
 *   C            rows in expert order [rows,N], float; or in chunks as A is, to be the next product's A
 *
 * One token's product may read x, which all its rows share, in place of A: each work-item converts it anew, which is
 * nothing beside its weights, and a launch is saved.
 *
 * Launch: groups of one work-item; no local memory, no barrier. Work-item (s, q, block) multiplies tiles s, s + splits,
 * .. of a block by panels 2q and 2q + 1, chunk by chunk: a chunk of a panel stays in the first-level cache while the
 * tiles go by. A tile of a row or two multiplies both panels at once: it has too few sums of its own to keep the
 * multipliers busy. `splits` is for products of few panels. The grid has the most blocks there can be, the last block
 * first: surplus work-items, which return, come before the others, so that what OpenCL implementations do to end with
 * all cores busy meets those that have work.
 *
 * Deterministic: every element is the sum, in rising order, of the sums of its chunks, each one fp32 sum over k in
 * rising order (of a pair, the second step first; AMX: 16 pairs at a time, their first steps apart from their second
 * ones); by one work-item, the same in whichever body. */

#ifndef WEIGHT_TYPE
#define WEIGHT_TYPE f32
#endif
#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif
#ifndef ITEM_VECTORS
#define ITEM_VECTORS 1
#endif
#ifndef DEPTH_STEPS
#define DEPTH_STEPS 256
#endif

#ifndef PAIRS
#define PAIRS 0
#endif
#ifndef IN_PAIRS
#define IN_PAIRS 0
#endif
#ifndef PAIRS_AVX512
#define PAIRS_AVX512 0
#endif
#ifndef PAIRS_AMX
#define PAIRS_AMX 0
#endif

/* The types of x, as enum moecl_type has them. */
#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_BF16 2u
#define TYPE_NONE 3u

#define PANEL_COLUMNS (16 * ITEM_VECTORS)
#define BLOCK_ROWS (BLOCK_TILES * ITEM_ROWS)
#if PAIRS_AMX
#define BOTH_ROWS 0
#else
#define BOTH_ROWS (ITEM_ROWS / 3) /* a tile of at most that many rows, alone, multiplies two panels at once */
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
    int16 wrong = (int16)(0);
    for (uint row = block.first; row < block.first + block.rows; row++) {
        const uint assignment = divisor && order == BY_GROUP ? assignments[row] : row;
        const uint source = divisor ? assignment / divisor : assignment;
        const float weight = weighted ? VIEW(const float, row_weights)[assignment] : 1.0f;
        __global const ELEMENT(ACTIVATION_TYPE) *from =
            VIEW(const ELEMENT(ACTIVATION_TYPE), x) + (ulong)source * depth + begin;
        __global ELEMENT(PACKED_TYPE) *to =
            VIEW(ELEMENT(PACKED_TYPE), packed) + ((ulong)chunk * total_rows + row) * DEPTH_STEPS;
        uint k = 0;
        for (; k + 16 <= steps; k += 16) {
            const float16 values = CALL(load16, ACTIVATION_TYPE)(from + k);
            wrong |= (as_int16(values) & 0x7f800000) == 0x7f800000;
            CALL(store16, PACKED_TYPE)(to + k, values * weight);
        }
        for (; k < steps; k++) {
            const float value = CALL(load, ACTIVATION_TYPE)(from + k);
            wrong.s0 |= is_finite(value) ? 0 : -1;
            CALL(store, PACKED_TYPE)(to + k, value * weight);
        }
    }
    if (any(wrong) && flag)
        atomic_or(VIEW(uint, flag), flag);
}

/* A vector of weights, and what products take of it in a round: PAIRS has 2 steps of 16 columns in a vector, which
 * floats are multiplied by in two rounds, the first step's first. */
#if PAIRS
#define STEP 2
#define load_vector(from) vload16(0, (__global const uint *)(from))
#else
#define STEP 1
#define load_vector CALL(load16, WEIGHT_TYPE)
#endif

#if IN_PAIRS
#define ROUNDS 1
#define FACTOR uint16
#define load_factor(from, round) load_vector(from)

/* sum + high half of a x high half of b + low x low, as vdpbf16ps has it. */
inline float16 add_pairs(float16 sum, uint a, uint16 weights)
{
    sum += as_float(a & 0xffff0000u) * as_float16(weights & 0xffff0000u);
    return sum + as_float(a << 16) * as_float16(weights << 16);
}

inline float16 add_products(float16 sum, __global const ushort *a, uint16 weights)
{
#if PAIRS_AVX512
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*(__global const uint *)a));
    return sum;
#else
    return add_pairs(sum, *(__global const uint *)a, weights);
#endif
}

inline float16 add_last_product(float16 sum, __global const ushort *a, uint16 weights)
{
    return add_pairs(sum, *a, weights);
}
#else
#define ROUNDS STEP
#define FACTOR float16
#if PAIRS && ITEM_VECTORS == 1 && defined(__x86_64__)
/* The first step's weights lie in the lower halves of floats: read two bytes early, they lie in the upper ones, as the
 * second step's do, and no instruction shifts them. x86 clears the lower halves while it reads. What lies before the
 * first panel: layout.h, lead. Not for vectors as long as a cache line, of which every one would then lie in two. */
typedef uint16 early_uint16 __attribute__((aligned(2)));
#define load_factor(from, round)                                                                                       \
    as_float16(*(__global const early_uint16 *)((from) - 1 + (round)) & 0xffff0000u)
#elif PAIRS
#define load_factor(from, round) as_float16((round) ? load_vector(from) & 0xffff0000u : load_vector(from) << 16)
#else
#define load_factor(from, round) load_vector(from)
#endif

#define add_products(sum, a, weights) ((sum) + *(a) * (weights)) /* `a` in whichever memory */
#define add_last_product add_products
#endif

/* fetch() asks for the cache line at `at`, which may lie past the end of a buffer; PoCL's prefetch() does nothing. The
 * loop over steps is unrolled in part, since what it needs for itself is much beside the products of a few rows: where
 * kernels become the processor's code at once, as other compilers take three times as long over it. */
#if defined(__x86_64__) || defined(__aarch64__)
#define fetch(at) __builtin_prefetch((const void *)(ulong)(at))
#define UNROLL_STEPS _Pragma("unroll 4")
#else
#define fetch(at) prefetch(at, 1)
#define UNROLL_STEPS
#endif

/* Where the next chunk of weights is fetched while a tile is multiplied: at `at`, then `stride` bytes on with every
 * vector's step. */
struct ahead {
    __global const uchar *at;
    uint stride;
};

#define LINE_BYTES 64
#define STEP_BYTES (STEP * PANEL_COLUMNS * sizeof(ELEMENT(WEIGHT_TYPE)))

#if PAIRS_AMX
#define FOR_EACH_SUMS(DO)                                                                                              \
    DO(0, sums, SUMS_STRIDE);                                                                                          \
    if (ITEM_VECTORS == 2)                                                                                             \
        DO(1, sums + 16, SUMS_STRIDE);                                                                                 \
    if (lower)                                                                                                         \
        DO(2, lower_sums, SUMS_STRIDE);                                                                                \
    if (lower && ITEM_VECTORS == 2)                                                                                    \
        DO(3, lower_sums + 16, SUMS_STRIDE);
#define SUMS_STRIDE (PANEL_COLUMNS * sizeof(float))
#define A_STRIDE (DEPTH_STEPS * sizeof(*a))

/* Adds the products of a tile of up to 32 rows and a panel over `count` times `pairs` pairs of steps, in the tile
 * registers. */
inline void multiply_pairs(__global const ushort *a, __global const ushort *b, uint rows, uint pairs, uint count,
                           struct ahead ahead, float *sums)
{
    const bool lower = rows > TILE_ROWS;
    __global const ushort *lower_a = a + TILE_ROWS * DEPTH_STEPS;
    float *lower_sums = sums + TILE_ROWS * PANEL_COLUMNS;
    configure_tiles(rows, pairs);
    FOR_EACH_SUMS(TILE_LOAD)
    for (uint i = 0; i < count; i++, a += 2 * pairs, lower_a += 2 * pairs, b += 2 * pairs * PANEL_COLUMNS) {
        for (uint line = 0; line < pairs * ahead.stride; line += LINE_BYTES)
            fetch(ahead.at + line);
        ahead.at += pairs * ahead.stride;
        TILE_LOAD(6, b, STEP_BYTES);
        TILE_LOAD(4, a, A_STRIDE);
        TILE_MULTIPLY(0, 4, 6);
        if (ITEM_VECTORS == 2) {
            TILE_LOAD(7, b + 32, STEP_BYTES);
            TILE_MULTIPLY(1, 4, 7);
        }
        if (lower) {
            TILE_LOAD(5, lower_a, A_STRIDE);
            TILE_MULTIPLY(2, 5, 6);
            if (ITEM_VECTORS == 2)
                TILE_MULTIPLY(3, 5, 7);
        }
    }
    FOR_EACH_SUMS(TILE_STORE)
}

/* Adds the products over the steps of a chunk to sums [row][PANEL_COLUMNS]: pairs 16 at a time, then those left, and
 * the last of an odd number of steps by itself. */
inline void multiply_tile(__global const ushort *a, __global const ushort *b, uint rows, uint steps, struct ahead ahead,
                          float *sums)
{
    const uint pairs = steps / 2, count = pairs / TILE_PAIRS, done = count * TILE_PAIRS;
    if (count > 0)
        multiply_pairs(a, b, rows, TILE_PAIRS, count, ahead, sums);
    ahead.at += done * ahead.stride;
    if (done < pairs)
        multiply_pairs(a + 2 * done, b + 2 * done * PANEL_COLUMNS, rows, pairs - done, 1, ahead, sums);
    if (steps % 2 == 0)
        return;
    for (uint i = 0; i < rows * ITEM_VECTORS; i++) {
        const uint16 weights = load_vector(b + 2 * pairs * PANEL_COLUMNS + i % ITEM_VECTORS * 32);
        vstore16(add_last_product(vload16(i, sums), a + i / ITEM_VECTORS * DEPTH_STEPS + 2 * pairs, weights), i, sums);
    }
}
#else
/* Adds the products of a tile of ROWS rows, in MEMORY, and PANELS panels, `panel_size` apart, over the steps of a chunk
 * to sums [row][PANEL_COLUMNS], those of the second panel BOTH_ROWS rows behind those of the first. Loops over sums are
 * unrolled, or these would not be registers, and go by rows: by vectors, compilers keep an element of every row for the
 * next vector and run out of registers. Low tiles, of both panels, take what they read at the rate at which it comes:
 * they fetch nothing ahead. */
#define FOR_EACH_VECTOR(v, panels) _Pragma("unroll") for (uint v = 0; v < panels * ITEM_VECTORS; v++)
#define FOR_EACH_ROW(r, rows) _Pragma("unroll") for (uint r = 0; r < rows; r++)
#define FOR_EACH_LINE(line)                                                                                            \
    _Pragma("unroll") for (uint line = 0; line < (STEP_BYTES + LINE_BYTES - 1) / LINE_BYTES; line++)
#define ADD_ROUND(ROWS, PANELS, ROUND, ADD)                                                                            \
    {                                                                                                                  \
        FACTOR weights[PANELS * ITEM_VECTORS];                                                                         \
        FOR_EACH_VECTOR(v, PANELS)                                                                                     \
        weights[v] = load_factor(b + v / ITEM_VECTORS * panel_size + STEP * 16 * (v % ITEM_VECTORS), ROUND);           \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS)                                                               \
        sum[r][v] = ADD(sum[r][v], a + r * DEPTH_STEPS + ROUND, weights[v]);                                           \
    }
#define DEFINE_BODY(NAME, MEMORY, ROWS, PANELS)                                                                        \
    inline void NAME(MEMORY const ELEMENT(PACKED_TYPE) *a, __global const ELEMENT(WEIGHT_TYPE) *b, ulong panel_size,   \
                     uint steps, struct ahead ahead, float *sums)                                                      \
    {                                                                                                                  \
        float16 sum[ROWS][PANELS * ITEM_VECTORS];                                                                      \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS) sum[r][v] = (float16)(0.0f);                                  \
        UNROLL_STEPS                                                                                                   \
        for (uint k = 0; k < steps / STEP; k++, a += STEP, b += STEP * PANEL_COLUMNS, ahead.at += ahead.stride) {      \
            if (PANELS == 1)                                                                                           \
                FOR_EACH_LINE(line) fetch(ahead.at + line * LINE_BYTES);                                               \
            ADD_ROUND(ROWS, PANELS, 0, add_products)                                                                   \
            if (ROUNDS == 2)                                                                                           \
                ADD_ROUND(ROWS, PANELS, 1, add_products)                                                               \
        }                                                                                                              \
        if (steps % STEP)                                                                                              \
            ADD_ROUND(ROWS, PANELS, 0, add_last_product)                                                               \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS)                                                               \
        {                                                                                                              \
            const uint i = (v / ITEM_VECTORS * BOTH_ROWS + r) * ITEM_VECTORS + v % ITEM_VECTORS;                       \
            vstore16(vload16(i, sums) + sum[r][v], i, sums);                                                           \
        }                                                                                                              \
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
#if BOTH_ROWS == 2
#define FOR_EACH_LOW_HEIGHT(X) X(1) X(2)
#elif BOTH_ROWS == 3
#define FOR_EACH_LOW_HEIGHT(X) X(1) X(2) X(3)
#elif BOTH_ROWS == 4
#define FOR_EACH_LOW_HEIGHT(X) X(1) X(2) X(3) X(4)
#endif

#define DEFINE_SINGLE(rows) DEFINE_BODY(multiply_##rows, __global, rows, 1)
#define DEFINE_BOTH(rows) DEFINE_BODY(multiply_both_##rows, __global, rows, 2)
FOR_EACH_HEIGHT(DEFINE_SINGLE)
FOR_EACH_LOW_HEIGHT(DEFINE_BOTH)
#endif

#if !IN_PAIRS
DEFINE_BODY(multiply_x, __private, 1, 1)
DEFINE_BODY(multiply_both_x, __private, 1, 2)

#define DEFINE_READ(TYPE)                                                                                              \
    inline int read_##TYPE(__global const ELEMENT(TYPE) *from, uint count, float *to)                                  \
    {                                                                                                                  \
        int16 wrong = (int16)(0);                                                                                      \
        uint k = 0;                                                                                                    \
        for (; k + 16 <= count; k += 16) {                                                                             \
            const float16 values = CALL(load16, TYPE)(from + k);                                                       \
            wrong |= (as_int16(values) & 0x7f800000) == 0x7f800000;                                                    \
            vstore16(values, 0, to + k);                                                                               \
        }                                                                                                              \
        for (; k < count; k++) {                                                                                       \
            to[k] = CALL(load, TYPE)(from + k);                                                                        \
            wrong.s0 |= is_finite(to[k]) ? 0 : -1;                                                                     \
        }                                                                                                              \
        return any(wrong);                                                                                             \
    }
DEFINE_READ(f32)
DEFINE_READ(f16)
DEFINE_READ(bf16)

/* Adds the products of `steps` steps of x from `begin` on, of its type `x_type`, and one panel or both. Whether one of
 * them is NaN or infinity. */
inline int multiply_x_chunk(__global const uchar *x, uint x_type, uint begin, bool both,
                            __global const ELEMENT(WEIGHT_TYPE) *b, ulong panel_size, uint steps, float *sums)
{
    float a[DEPTH_STEPS];
    int wrong;
    if (x_type == TYPE_BF16)
        wrong = read_bf16((__global const ushort *)x + begin, steps, a);
    else if (x_type == TYPE_F16)
        wrong = read_f16((__global const ushort *)x + begin, steps, a);
    else
        wrong = read_f32((__global const float *)x + begin, steps, a);
    struct ahead ahead = {(__global const uchar *)(b + steps * PANEL_COLUMNS), STEP_BYTES};
    if (both)
        multiply_both_x(a, b, panel_size, steps, ahead, sums);
    else
        multiply_x(a, b, panel_size, steps, ahead, sums);
    return wrong;
}
#endif

#define CASE_SINGLE(rows)                                                                                              \
    case rows:                                                                                                         \
        multiply_##rows(a, b, 0, steps, ahead, sums);                                                                  \
        break;
#define CASE_BOTH(rows)                                                                                                \
    case rows:                                                                                                         \
        multiply_both_##rows(a, b, panel_size, steps, ahead, sums);                                                    \
        break;

/* Adds the products of a block's tiles, every `stride`-th from `begin` on, over a chunk; or those of its only tile and
 * of both panels. Each of n tiles fetches an n-th of the chunk that follows, so that memory is read all the while that
 * the multipliers are busy, and not only during the first tile. */
inline void multiply_chunk(struct parts tiles, uint begin, uint stride, bool both,
                           __global const ELEMENT(PACKED_TYPE) *a, __global const ELEMENT(WEIGHT_TYPE) *b,
                           ulong panel_size, uint steps, float *block_sums)
{
    struct ahead ahead = {(__global const uchar *)(b + steps * PANEL_COLUMNS), 0};
#if !PAIRS_AMX
    if (both) {
        float *sums = block_sums;
        switch (tiles.height) {
            FOR_EACH_LOW_HEIGHT(CASE_BOTH)
        }
        return;
    }
#endif
    __global const ELEMENT(PACKED_TYPE) *block_a = a;
    ahead.stride = STEP_BYTES / ((tiles.count - begin + stride - 1) / stride);
    for (uint tile = begin; tile < tiles.count; tile += stride, ahead.at += steps / STEP * ahead.stride) {
        const uint top = part_begin(tiles, tile);
        float *sums = block_sums + top * PANEL_COLUMNS;
        a = block_a + top * DEPTH_STEPS;
        const uint height = tiles.height - (tile >= tiles.tall);
#if PAIRS_AMX
        multiply_tile(a, b, height, steps, ahead, sums);
#else
        switch (height) {
            FOR_EACH_HEIGHT(CASE_SINGLE)
        }
#endif
    }
}

/* `packed` is A; or, of the type `x_type` and not TYPE_NONE, x's one row. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
vector_multiply(__global const uchar *packed_memory, ulong packed_offset, uint x_type,
                __global const uchar *weights_memory, ulong weights_offset, uint order, __global const uint *map_memory,
                ulong map_offset, uint total_rows, uint bound, uint depth, uint width, uint panels, uint first_group,
                uint end_group, uint splits, uint biased, __global const uchar *biases_memory, ulong biases_offset,
                uint form, __global float *output_memory, ulong output_offset, __global uint *flag_memory,
                ulong flag_offset, uint flag)
{
    const uint first_panel = 2 * get_global_id(1), end_panel = min(first_panel + 2, panels);
    if (get_global_id(2) >= bound || first_panel >= panels)
        return;
    const struct block block = block_at(VIEW(const uint, map), order, total_rows, bound - 1 - get_global_id(2));
    const uint group = block.group, first = block.first, rows = block.rows;
    const uint tile_count = (rows + ITEM_ROWS - 1) / ITEM_ROWS;
    if (get_global_id(0) >= tile_count || group < first_group || group >= end_group)
        return;
    const struct parts tiles = cut(rows, tile_count);
    const bool both = rows <= BOTH_ROWS && first_panel + 2 == end_panel;
    const bool gated = form != FORM_ROWS && !UNGATED;
    const ulong panel_size = (ulong)((depth + STEP - 1) / STEP) * STEP * PANEL_COLUMNS;
    __global const ELEMENT(PACKED_TYPE) *a =
        VIEW(const ELEMENT(PACKED_TYPE), packed) + (ulong)first * DEPTH_STEPS;
    __global const ELEMENT(WEIGHT_TYPE) *b =
        VIEW(const ELEMENT(WEIGHT_TYPE), weights) + (ulong)(group - first_group) * panels * panel_size;
    __global const float *biases =
        VIEW(const float, biases) + (biased ? (ulong)group * (gated ? 2 * width : width) : 0);
    __global float *output = VIEW(float, output);

    for (uint panel = first_panel; panel < end_panel; panel += both ? 2 : 1) {
        float sums[BLOCK_ROWS * PANEL_COLUMNS] __attribute__((aligned(64)));
        for (uint i = 0; i < (both ? 2 * BOTH_ROWS : rows) * ITEM_VECTORS; i++)
            vstore16((float16)(0.0f), i, sums);
        int wrong = 0;
        for (uint begin = 0; begin < depth; begin += DEPTH_STEPS) {
            __global const ELEMENT(WEIGHT_TYPE) *b_chunk = b + panel * panel_size + (ulong)begin * PANEL_COLUMNS;
            const uint steps = min(depth - begin, (uint)DEPTH_STEPS);
#if !IN_PAIRS
            if (x_type != TYPE_NONE) {
                wrong |=
                    multiply_x_chunk(VIEW(const uchar, packed), x_type, begin, both, b_chunk, panel_size, steps, sums);
                continue;
            }
#endif
            multiply_chunk(tiles, get_global_id(0), splits, both,
                           a + (ulong)(begin / DEPTH_STEPS) * total_rows * DEPTH_STEPS, b_chunk, panel_size, steps,
                           sums);
        }
        if (wrong && flag)
            atomic_or(VIEW(uint, flag), flag);
#if PAIRS_AMX
        TILE_RELEASE();
#endif

        for (uint v = 0; v < (both ? 2 : 1) * ITEM_VECTORS; v++) {
            const uint column = panel * PANEL_COLUMNS + 16 * v, n = gated ? column / 2 : column;
            const uint row_of_panel = v / ITEM_VECTORS * BOTH_ROWS;
            float16 bias = (float16)(0.0f);
            if (biased)
                bias = load_biases(biases, gated, width, column);
            for (uint tile = get_global_id(0); tile < tiles.count; tile += splits) {
                const uint end = part_begin(tiles, tile + 1);
                for (uint r = part_begin(tiles, tile); r < end; r++) {
                    float16 sum = vload16((row_of_panel + r) * ITEM_VECTORS + v % ITEM_VECTORS, sums);
                    if (biased)
                        sum += bias;
                    const ulong chunk_row = (ulong)(n / DEPTH_STEPS) * total_rows + first + r;
                    store_columns(output, form, width, column, first + r, chunk_row * DEPTH_STEPS + n % DEPTH_STEPS, 1,
                                  sum);
                }
            }
        }
    }
}
