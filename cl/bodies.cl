/* SPDX-License-Identifier: Apache-2.0 */
/* bodies.cl - the products of a tile and a panel, in vector registers: a body for every height; stands behind panels.cl
 * and in front of vector.cl.
 *
 * Shapes: A of a tile [rows][DEPTH_STEPS], B of a chunk of a panel [steps/STEP][PANEL_COLUMNS * STEP], sums
 * [row][PANEL_COLUMNS] float. A body keeps rows x PANEL_COLUMNS sums in registers, as many as these can hold. A low
 * tile multiplies several panels at once: it has too few sums of its own to keep the multipliers busy, and memory gives
 * more of several streams than of one. No kernels, so no launch.
 *
 * Deterministic: every sum runs over k in rising order (of a pair, the second step first), the same in every body. */

#if !PAIRS_AMX
#define LOW_ROWS (ITEM_ROWS / (ITEM_VECTORS == 2 ? 4 : 6)) /* a tile of at most that many is low */

/* Adds the products of a tile of ROWS rows, in MEMORY, and PANELS panels, `panel_size` apart, over the steps of a chunk
 * to sums [row][PANEL_COLUMNS], those of a panel LOW_ROWS rows behind those of the one before. Loops over sums are
 * unrolled, or these would not be registers, and go by rows: by vectors, compilers keep an element of every row for the
 * next vector and run out of registers. */
#define WEIGHTS __global const ELEMENT(WEIGHT_TYPE)
#define FOR_EACH_VECTOR(v, panels) _Pragma("unroll") for (uint v = 0; v < panels * ITEM_VECTORS; v++)
#define FOR_EACH_ROW(r, rows) _Pragma("unroll") for (uint r = 0; r < rows; r++)
#define FOR_EACH_LINE(line)                                                                                            \
    _Pragma("unroll") for (uint line = 0; line < (STEP_BYTES + LINE_BYTES - 1) / LINE_BYTES; line++)
#define ADD_ROUND(ROWS, PANELS, ROUND, FACTOR_OF, ADD)                                                                 \
    {                                                                                                                  \
        FACTOR weights[PANELS * ITEM_VECTORS];                                                                         \
        FOR_EACH_VECTOR(v, PANELS)                                                                                     \
        weights[v] = FACTOR_OF(b + v / ITEM_VECTORS * panel_size + STEP * 16 * (v % ITEM_VECTORS), ROUND);             \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS)                                                               \
        sum[r][v] = ADD(sum[r][v], a + r * DEPTH_STEPS + ROUND, weights[v]);                                           \
    }
#define FETCH_ROWS(ROWS)                                                                                               \
    _Pragma("unroll") for (uint byte = 0; byte < ROWS_BYTES(ROWS); byte += LINE_BYTES) fetch(ahead.rows + byte);       \
    ahead.rows += ROWS_BYTES(ROWS);
#define ROWS_BYTES(ROWS) (STEP * ROWS * sizeof(ELEMENT(PACKED_TYPE)))
#define DEFINE_BODY(NAME, MEMORY, ROWS, PANELS, B, FACTOR_OF)                                                          \
    inline void NAME(MEMORY const ELEMENT(PACKED_TYPE) *a, B *b, ulong panel_size, uint steps, struct ahead ahead,     \
                     float *sums)                                                                                      \
    {                                                                                                                  \
        float16 sum[ROWS][PANELS * ITEM_VECTORS];                                                                      \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS) sum[r][v] = (float16)(0.0f);                                  \
        UNROLL_STEPS                                                                                                   \
        for (uint k = 0; k < steps / STEP; k++, a += STEP, b += STEP * PANEL_COLUMNS) {                                \
            if (PANELS == 1) {                                                                                         \
                const struct ahead here = ahead_from(ahead, k);                                                        \
                FOR_EACH_LINE(line)                                                                                    \
                fetch_far(here.at + k % FETCH_STREAMS * here.apart + line * LINE_BYTES);                               \
            }                                                                                                          \
            if (PANELS > 1)                                                                                            \
                for (uint panel = 0; panel < PANELS; panel++)                                                          \
                    FOR_EACH_LINE(line) fetch((ulong)(b + panel * panel_size) + LOW_AHEAD + line * LINE_BYTES);        \
            ADD_ROUND(ROWS, PANELS, 0, FACTOR_OF, add_products)                                                        \
            if (PANELS == 1 && ROWS_AHEAD) {                                                                           \
                FETCH_ROWS(ROWS)                                                                                       \
            }                                                                                                          \
            if (ROUNDS == 2)                                                                                           \
                ADD_ROUND(ROWS, PANELS, 1, FACTOR_OF, add_products)                                                    \
        }                                                                                                              \
        if (steps % STEP)                                                                                              \
            ADD_ROUND(ROWS, PANELS, 0, FACTOR_OF, add_last_product)                                                    \
        FOR_EACH_ROW(r, ROWS) FOR_EACH_VECTOR(v, PANELS)                                                               \
        {                                                                                                              \
            const uint i = (v / ITEM_VECTORS * LOW_ROWS + r) * ITEM_VECTORS + v % ITEM_VECTORS;                        \
            ((float16 *)sums)[i] += sum[r][v];                                                                         \
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
#if LOW_ROWS == 1
#define FOR_EACH_LOW_HEIGHT(X) X(1)
#elif LOW_ROWS == 2
#define FOR_EACH_LOW_HEIGHT(X) X(1) X(2)
#elif LOW_ROWS == 3
#define FOR_EACH_LOW_HEIGHT(X) X(1) X(2) X(3)
#endif

#define DEFINE_SINGLE(rows) DEFINE_BODY(multiply_##rows, __global, rows, 1, WEIGHTS, load_factor)
#define DEFINE_LOW(rows) DEFINE_BODY(multiply_low_##rows, __global, rows, LOW_PANELS, WEIGHTS, load_factor)
FOR_EACH_HEIGHT(DEFINE_SINGLE)
FOR_EACH_LOW_HEIGHT(DEFINE_LOW)
#if UNPACKED_TILES
#define DEFINE_UNPACKED(rows) DEFINE_BODY(multiply_unpacked_##rows, __global, rows, 1, const float, load_unpacked)
FOR_EACH_HEIGHT(DEFINE_UNPACKED)
#endif

#define CASE_SINGLE(rows)                                                                                              \
    case rows:                                                                                                         \
        multiply_##rows(a, b, 0, steps, ahead, sums);                                                                  \
        break;
#define CASE_UNPACKED(rows)                                                                                            \
    case rows:                                                                                                         \
        multiply_unpacked_##rows(a, b, 0, steps, ahead, sums);                                                         \
        break;
#define CASE_LOW(rows)                                                                                                 \
    case rows:                                                                                                         \
        multiply_low_##rows(a, b, panel_size, steps, ahead, sums);                                                     \
        break;

/* What a work-item multiplies with: nothing but registers that the compiler sees to. */
struct multiplier {
    bool first; /* sums begin: of use to amx_bodies.cl alone, whose registers need no zeros in memory */
};

inline struct multiplier multiplier_begin(void)
{
    const struct multiplier multiplier = {true};
    return multiplier;
}

/* Before `rows` rows of sums begin, of a low tile or of others. */
inline void multiplier_clear(struct multiplier *multiplier, uint rows, bool low, float *sums)
{
    for (uint i = 0; i < rows * ITEM_VECTORS; i++)
        ((float16 *)sums)[i] = (float16)(0.0f);
}

inline void multiplier_end(void)
{
}

/* Adds the products of a tile of `height` rows and a panel over a chunk. */
inline void multiply_tile(__global const ELEMENT(PACKED_TYPE) *a, __global const ELEMENT(WEIGHT_TYPE) *b, uint height,
                          uint steps, struct ahead ahead, struct multiplier *multiplier, float *sums)
{
    switch (height) {
        FOR_EACH_HEIGHT(CASE_SINGLE)
    }
}

#if UNPACKED_TILES
/* The same of weights that are floats already. */
inline void multiply_unpacked_tile(__global const float *a, const float *b, uint height, uint steps, struct ahead ahead,
                                   float *sums)
{
    switch (height) {
        FOR_EACH_HEIGHT(CASE_UNPACKED)
    }
}
#endif

/* Those of a low tile and LOW_PANELS panels, `panel_size` apart. */
inline void multiply_low(__global const ELEMENT(PACKED_TYPE) *a, __global const ELEMENT(WEIGHT_TYPE) *b,
                         ulong panel_size, uint height, uint steps, float *sums)
{
    const struct ahead ahead = {0, 0, 0, 0, 0};
    switch (height) {
        FOR_EACH_LOW_HEIGHT(CASE_LOW)
    }
}
#endif

/* The types of x, as enum moecl_type has them. */
#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_BF16 2u
#define TYPE_NONE 3u

#if !IN_PAIRS
DEFINE_BODY(multiply_x, __private, 1, 1, WEIGHTS, load_factor)
DEFINE_BODY(multiply_low_x, __private, 1, LOW_PANELS, WEIGHTS, load_factor)

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

/* Adds the products of `steps` steps of x from `begin` on, of its type `x_type`, and `together` panels: one or
 * LOW_PANELS. Whether one of them is NaN or infinity. */
inline int multiply_x_chunk(__global const uchar *x, uint x_type, uint begin, uint together,
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
    const struct ahead ahead = ahead_of(b, steps, 1);
    if (together > 1)
        multiply_low_x(a, b, panel_size, steps, ahead, sums);
    else
        multiply_x(a, b, panel_size, steps, ahead, sums);
    return wrong;
}
#endif
