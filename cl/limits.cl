/* SPDX-License-Identifier: Apache-2.0 */
/* limits.cl - the yardsticks: reading memory, copying memory, multiplying and adding, in fp32 and in pairs of bf16.
 *
 * VECTOR is what one work-item handles at a time: as wide as a register where work-items are not run side by side in
 * vector lanes (CPUs), a few floats where neighbours' accesses are merged (GPUs).
 *
 * Work-item i handles the `count` vectors (a multiple of 4) at i * first, i * first + step, i * first + 2 * step, ...:
 *     step = 1, first = count    each has a block of its own      (CPUs)
 *     step = items, first = 1    neighbours have neighbours       (GPUs)
 * Launch: any number of work-items, which the sizes of the buffers must allow for; no bounds are checked. */

#ifndef VECTOR
#define VECTOR float4
#endif

/* sums VECTOR [items]: so that the loads are of use. */
__kernel void read_memory(ulong count, ulong first, ulong step, __global const VECTOR *from_memory, ulong from_offset,
                          __global VECTOR *sums_memory, ulong sums_offset)
{
    __global const VECTOR *from = VIEW(const VECTOR, from) + get_global_id(0) * first;
    VECTOR a = (VECTOR)(0.0f), b = a, c = a, d = a;
    for (ulong i = 0; i < count; i += 4) {
        a += from[i * step];
        b += from[(i + 1) * step];
        c += from[(i + 2) * step];
        d += from[(i + 3) * step];
    }
    VIEW(VECTOR, sums)[get_global_id(0)] = (a + b) + (c + d);
}

/* The same, a quarter of the vectors beside each other: processors fetch several streams ahead at a time. */
__kernel void read_streams(ulong count, ulong first, ulong step, __global const VECTOR *from_memory, ulong from_offset,
                           __global VECTOR *sums_memory, ulong sums_offset)
{
    __global const VECTOR *from = VIEW(const VECTOR, from) + get_global_id(0) * first;
    const ulong quarter = count / 4;
    VECTOR a = (VECTOR)(0.0f), b = a, c = a, d = a;
    for (ulong i = 0; i < quarter; i++) {
        a += from[i * step];
        b += from[(i + quarter) * step];
        c += from[(i + 2 * quarter) * step];
        d += from[(i + 3 * quarter) * step];
    }
    VIEW(VECTOR, sums)[get_global_id(0)] = (a + b) + (c + d);
}

__kernel void copy_memory(ulong count, ulong first, ulong step, __global const VECTOR *from_memory, ulong from_offset,
                          __global VECTOR *to_memory, ulong to_offset)
{
    __global const VECTOR *from = VIEW(const VECTOR, from) + get_global_id(0) * first;
    __global VECTOR *to = VIEW(VECTOR, to) + get_global_id(0) * first;
    for (ulong i = 0; i < count; i += 4) {
        const VECTOR a = from[i * step], b = from[(i + 1) * step], c = from[(i + 2) * step], d = from[(i + 3) * step];
        to[i * step] = a;
        to[(i + 1) * step] = b;
        to[(i + 2) * step] = c;
        to[(i + 3) * step] = d;
    }
}

/* Twelve chains of `rounds` multiply-adds a work-item: with two constants they fill 14 of a CPU's 16 vector registers,
 * and cover a latency of 4 to 6 cycles on two units. results VECTOR [items]. */
#define CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define START(n) VECTOR a##n = (VECTOR)(n + 1);
#define STEP(n) a##n = a##n * factor + term;
#define SUM(n) +a##n

__kernel void multiply_add(ulong rounds, float factor_value, float term_value, __global VECTOR *results_memory,
                           ulong results_offset)
{
    const VECTOR factor = (VECTOR)(factor_value), term = (VECTOR)(term_value);
    CHAINS(START)
    for (ulong i = 0; i < rounds; i++) {
        CHAINS(STEP)
    }
    VIEW(VECTOR, results)[get_global_id(0)] = (VECTOR)(0.0f) CHAINS(SUM);
}

#ifdef PAIRS_AVX512
/* The same with vdpbf16ps, 64 operations each; `factor` and `term` are pairs of bf16. results float16 [items]. */
#define START_PAIRS(n) float16 a##n = (float16)(n + 1);
#define STEP_PAIRS(n) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(a##n) : "v"(factor), "v"(term));

__kernel void multiply_pairs(ulong rounds, float factor_value, float term_value, __global float16 *results_memory,
                             ulong results_offset)
{
    const uint16 factor = as_uint16((float16)(factor_value)), term = as_uint16((float16)(term_value));
    CHAINS(START_PAIRS)
    for (ulong i = 0; i < rounds; i++) {
        CHAINS(STEP_PAIRS)
    }
    VIEW(float16, results)[get_global_id(0)] = (float16)(0.0f) CHAINS(SUM);
}
#endif

#if PAIRS_AMX
/* Four products of tiles a round, 16384 operations each. Of numbers of all mantissas and both signs: of zeros the unit
 * uses less power, and runs at up to 1.25 times the rate that anybody's products get. results float16 [items]. */
__kernel void multiply_pairs(ulong rounds, float factor_value, float term_value, __global float16 *results_memory,
                             ulong results_offset)
{
    float sums[16] __attribute__((aligned(64)));
    ushort factors[4 * TILE_ROWS * 2 * TILE_PAIRS] __attribute__((aligned(64)));
    uint state = 1;
    for (uint i = 0; i < sizeof(factors) / sizeof(*factors); i++) {
        state = state * 1664525u + 1013904223u;
        factors[i] = 0x3f00 | (state >> 16 & 0x807f);
    }
    configure_tiles(2 * TILE_ROWS, TILE_PAIRS);
    TILE_LOAD(4, factors, TILE_BYTES);
    TILE_LOAD(5, factors + 2 * TILE_ROWS * TILE_PAIRS, TILE_BYTES);
    TILE_LOAD(6, factors + 4 * TILE_ROWS * TILE_PAIRS, TILE_BYTES);
    TILE_LOAD(7, factors + 6 * TILE_ROWS * TILE_PAIRS, TILE_BYTES);
    for (ulong i = 0; i < rounds; i++) {
        TILE_MULTIPLY(0, 4, 6);
        TILE_MULTIPLY(1, 4, 7);
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
    }
    configure_tiles(1, TILE_PAIRS);
    TILE_STORE(0, sums, TILE_BYTES);
    TILE_RELEASE();
    VIEW(float16, results)[get_global_id(0)] = vload16(0, sums);
}
#endif
