/* SPDX-License-Identifier: Apache-2.0 */
/* panels.cl - the panels that weights lie in, and what products read of them; stands behind blocks.cl and in front of
 * vector.cl.
 *
 * Layout of B, [N,K]: PANEL_COLUMNS columns of C a panel, K steps deep; columns past N are zero. Gated: of every 16
 * columns of a panel, 8 are of gate and the next 8 of up, so that both halves of a column of C meet in a work-item
 *
 *                [panel 0: k=0: c0 c1 .. | k=1: c0 c1 .. | ..] [panel 1: ..]     WEIGHT_TYPE
 *
 * PAIRS, bf16: panels have pairs of steps for steps, which take fewer instructions to unpack
 *
 *                [panel 0: k=0,1: c0 c0 c1 c1 .. | k=2,3: c0 c0 c1 c1 .. | ..]
 *
 * IN_PAIRS, bf16 by bf16: A holds bf16 too, and both are multiplied pair by pair, in plain code, by AVX512-BF16
 * (PAIRS_AVX512) or by AMX (PAIRS_AMX). AMX multiplies f16 by f16 too, in two PIECES (columns.cl), into which it cuts
 * the weights of a chunk that it reads. It leaves out the product of the second pieces: at most 2^-18 of the values'
 * own, of either sign alike, which rounding does to sums of some hundred products as well.
 *
 * No kernels, so no launch. Deterministic: elementwise. */

#ifndef WEIGHT_TYPE
#define WEIGHT_TYPE f32
#endif
#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif
#ifndef ITEM_VECTORS
#define ITEM_VECTORS 1
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

#define PANEL_COLUMNS (16 * ITEM_VECTORS)

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
#if PAIRS
#define load_factor(from, round) as_float16((round) ? load_vector(from) & 0xffff0000u : load_vector(from) << 16)
#else
#define load_factor(from, round) load_vector(from)
#endif

#define add_products(sum, a, weights) ((sum) + *(a) * (weights)) /* `a` in whichever memory */
#define add_last_product add_products
#endif

/* From how many tiles on the weights of a chunk are made floats once for all of them, in the order in which they lie;
 * 0: never. Converting f16 takes the multipliers' own units: where registers have 16 floats 0.89 of the time with 11
 * tiles, 1.12 with 2. Where they have 8, two instructions a vector are much beside the products of 6 rows: bf16 0.72 of
 * the time with 22 tiles (f16 0.92), 0.93 with 3 (0.96), 1.0 with 2. */
#define UNPACKED_f32 0
#define UNPACKED_f16 (ITEM_VECTORS == 2 ? 4 : 3)
#define UNPACKED_bf16 (ITEM_VECTORS == 2 ? 0 : 3)
#define UNPACKED_TILES (IN_PAIRS ? 0 : CALL(UNPACKED, WEIGHT_TYPE))

#if UNPACKED_TILES
#define load_unpacked(from, round) vload16(round, from)
inline void unpack_chunk(__global const ELEMENT(WEIGHT_TYPE) *b, uint steps, float *to)
{
    for (uint i = 0; i < steps * PANEL_COLUMNS; i += STEP * 16)
        _Pragma("unroll") for (uint round = 0; round < ROUNDS; round++)
            *(float16 *)(to + i + 16 * round) = load_factor(b + i, round);
}
#endif

/* fetch() asks for the cache line at an address, which may lie past the end of a buffer; fetch_far() for no nearer than
 * the second-level cache. PoCL's prefetch() does nothing. The loop over steps is unrolled in part, since what it needs
 * for itself is much beside the products of a few rows: where kernels become the processor's code at once, as other
 * compilers take three times as long over it. */
#if defined(__x86_64__) || defined(__aarch64__)
#define fetch_far(at) __builtin_prefetch((const void *)(at), 0, 2)
#define fetch(at) __builtin_prefetch((const void *)(at))
#define UNROLL_STEPS _Pragma("unroll 4")
#else
#define fetch_far(at)
#define fetch(at)
#define UNROLL_STEPS
#endif

#define LINE_BYTES 64
#define STEP_BYTES (STEP * PANEL_COLUMNS * sizeof(ELEMENT(WEIGHT_TYPE)))

/* A block of a single low tile multiplies LOW_PANELS panels at once, as many as vector.c gives a work-item, and of each
 * fetches what is LOW_AHEAD bytes on: one or two rows took 1.2 to 1.4 times as long by two panels and without fetching,
 * one with registers of 8 floats 1.2 to 1.3. */
#define LOW_PANELS 4
#define LOW_AHEAD 1024

/* Where the next chunk of weights is fetched while a tile is multiplied. What processors read ahead of their own accord
 * ends with the page, and is for several streams at a time: of FETCH_STREAMS parts of a chunk side by side, memory
 * gives 1.2 times what it gives of one part after the other (Xeon, Emerald Rapids; layers with 2 to 16 rows an expert
 * took 0.78 to 0.88 of their time; 0.9 with registers of 8 floats). More tiles than STREAMED_TILES have time enough,
 * and took 1.02 of it, but by AMX. */
#define FETCH_STREAMS (PAIRS_AMX ? 8 : 4)
#define STREAMED_TILES (PAIRS_AMX ? 32 : 2 * ITEM_VECTORS)

/* From PAIRED_TILES on AMX fetches every other line alone, page by page; processors read lines in pairs, and bring the
 * one beside. A fetch takes one of the few places for lines on their way to the first-level cache, as A's lines do,
 * which are read at the same time: 0.96 to 0.98 of the time with 4 to 16 tiles, but 1.06 to 1.2 with one, which has
 * little of A. */
#define PAIRED_TILES (PAIRS_AMX ? 3 : UINT_MAX)
#define PAGE_BYTES 4096

/* Whether the rows of the next tile are fetched as well. Those of a block may be more than the second-level cache
 * holds, the more so where processors share it, and their steps come from as many places as there are rows, which
 * processors do not read ahead: 0.94 to 0.98 of the time with 22 tiles of 2048 steps. Not of bf16 rows, which take half
 * as much, nor with registers of 8 floats (1.0 to 1.06). */
#define ROWS_AHEAD (ITEM_VECTORS == 2 && !IN_PAIRS)

/* Vector's step k fetches at `at` + k / FETCH_STREAMS * stride + k % FETCH_STREAMS * apart, AMX one line in `gap`
 * bytes; to the second-level cache: 0.93 to 0.97 of the time with two tiles, whose A and weights fill the first one.
 * The rows of the next tile begin at `rows`: where none are known, any address that is mapped. */
struct ahead {
    ulong at, rows;
    uint stride, apart, gap;
};

/* For each of `tiles` tiles, which fetch a part each of as much as the `steps` steps at `b` have, a whole chunk on. */
inline struct ahead ahead_of(__global const ELEMENT(WEIGHT_TYPE) *b, uint steps, uint tiles)
{
    __global const ELEMENT(WEIGHT_TYPE) *next = b + DEPTH_STEPS * PANEL_COLUMNS;
    struct ahead ahead;
    const bool streamed = tiles <= STREAMED_TILES, paired = tiles >= PAIRED_TILES;
    ahead.at = paired ? ((ulong)next + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES : (ulong)next;
    ahead.rows = (ulong)next;
    ahead.stride = (streamed ? 1 : FETCH_STREAMS) * STEP_BYTES / tiles;
    ahead.apart = streamed ? steps / STEP * STEP_BYTES / FETCH_STREAMS : STEP_BYTES / tiles;
    ahead.gap = paired ? 2 * LINE_BYTES : LINE_BYTES;
    return ahead;
}

/* Where vector's step k of them goes on. */
inline struct ahead ahead_from(struct ahead ahead, uint k)
{
    ahead.at += k / FETCH_STREAMS * ahead.stride;
    return ahead;
}
