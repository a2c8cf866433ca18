/* SPDX-License-Identifier: Apache-2.0 */
/* amx.cl - x86's tile registers (AMX), by which bf16 is multiplied by bf16 in pairs; stands in front of what uses it,
 * in programs with PAIRS_AMX=1, which only a device whose probe has found them may run.
 *
 * Shapes: a tile register holds up to 16 rows of up to 64 bytes. TILE_MULTIPLY adds to sums, float [M,16], what A
 * [M,2P] and B [P,16,2] of bf16 have for product, P pairs of steps at a time: a panel of pairs is B as it stands. There
 * are eight registers; for up to 32 rows by 32 columns they hold
 *
 *     0 1   sums of rows 0 to 15, columns 0 to 15 and 16 to 31       4   A, rows 0 to 15       6 7   B, both halves
 *     2 3   sums of rows 16 to 31                                    5   A, rows 16 to 31
 *
 * No kernels, so no launch. A processor's tiles belong to a work-item from configure_tiles() to TILE_RELEASE().
 *
 * Deterministic: an element of a tile of sums depends on its row of A and its column of B alone. Subnormal numbers
 * count as zero. */

#if PAIRS_AMX
#define TILE_ROWS 16
#define TILE_PAIRS 16
#define TILE_BYTES 64

/* The instructions as bytes, since compilers refuse their names unless told of a processor that has them. Registers are
 * literal numbers; addresses are in rax, the bytes from row to row in rcx. */
#define TILE_AT(at, stride) "a"((ulong)(at)), "c"((ulong)(stride)) : "memory"
#define TILE_CONFIGURE(at) __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x00" : : "a"((ulong)(at)) : "memory")
#define TILE_RELEASE() __asm__ volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0")
#define TILE_LOAD(tile, at, stride)                                                                                    \
    __asm__ volatile(".byte 0xc4, 0xe2, 0x7b, 0x4b, 0x04 + 8 * " #tile ", 0x08" : : TILE_AT(at, stride))
/* The same, of what is not to stay in the first-level cache. */
#define TILE_STREAM(tile, at, stride)                                                                                  \
    __asm__ volatile(".byte 0xc4, 0xe2, 0x79, 0x4b, 0x04 + 8 * " #tile ", 0x08" : : TILE_AT(at, stride))
#define TILE_CLEAR(tile) __asm__ volatile(".byte 0xc4, 0xe2, 0x7b, 0x49, 0xc0 + 8 * " #tile)
#define TILE_STORE(tile, at, stride)                                                                                   \
    __asm__ volatile(".byte 0xc4, 0xe2, 0x7a, 0x4b, 0x04 + 8 * " #tile ", 0x08" : : TILE_AT(at, stride))
#define TILE_MULTIPLY(sums, a, b)                                                                                      \
    __asm__ volatile(".byte 0xc4, 0xe2, 0x42 + 8 * (7 - " #b "), 0x5c, 0xc0 + 8 * " #sums " + " #a)

/* Gives the registers the shapes for products of `rows` rows over `pairs` pairs of steps, and zeros. */
inline void configure_tiles(uint rows, uint pairs)
{
    const uint upper = min(rows, (uint)TILE_ROWS), lower = rows - upper;
    const uint row_counts[8] = {upper, upper, lower, lower, upper, lower, pairs, pairs};
    uchar configuration[64] __attribute__((aligned(64))); /* palette, first row; ushort bytes a row; uchar rows */
    for (uint i = 0; i < 64; i++)
        configuration[i] = 0;
    configuration[0] = 1;
    for (uint tile = 0; tile < 8; tile++) {
        const uint bytes = tile == 4 || tile == 5 ? 4 * pairs : TILE_BYTES;
        configuration[16 + 2 * tile] = row_counts[tile] ? bytes : 0;
        configuration[48 + tile] = row_counts[tile];
    }
    TILE_CONFIGURE(configuration);
}
#endif
