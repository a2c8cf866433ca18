/* SPDX-License-Identifier: Apache-2.0 */
/* philox.c - Philox 4x32-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3), and the numbers that
 * cl/philox.cl makes of its words. */
#include "philox.h"

#include "../../cl/normal_table.cl"

static void philox(uint32_t words[4], uint64_t seed)
{
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t first = 0xd2511f53u * (uint64_t)words[0], second = 0xcd9e8d57u * (uint64_t)words[2];
        uint32_t next[4] = {(uint32_t)(second >> 32) ^ words[1] ^ key[0], (uint32_t)second,
                            (uint32_t)(first >> 32) ^ words[3] ^ key[1], (uint32_t)first};
        for (int i = 0; i < 4; i++)
            words[i] = next[i];
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
}

static uint32_t word_of(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind)
{
    uint32_t words[4] = {(uint32_t)(element / 4), (uint32_t)token | (uint32_t)kind << 28, (uint32_t)step,
                         (uint32_t)(step >> 32)};
    philox(words, seed);
    return words[element % 4];
}

double moecl_philox_uniform(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind)
{
    return (double)(2 * (word_of(seed, step, token, element, kind) >> 9) + 1) * 0x1p-24;
}

/* Q of the probability odd / 2^33, in units of 2^-21. A coefficient's unit is half the one before, y's is 2^-31: a
 * product goes 32 bits down. */
static uint32_t inverse_of_tail(uint32_t odd)
{
    unsigned octave = 0;
    for (; odd < 0x80000000u; odd <<= 1)
        octave++;
    const uint32_t *row = normal_table[octave];
    const uint64_t y = 0x100000000u - (uint64_t)odd;
    uint64_t q = (row[5] * y >> 32) * y >> 32;
    for (int k = 4; k >= 0; k--)
        q = row[k] + (q * y >> 32);
    return (uint32_t)((q + 128) >> 8);
}

double moecl_philox_normal(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind)
{
    const uint32_t word = word_of(seed, step, token, element, kind);
    const double magnitude = inverse_of_tail(word << 1 | 1) * 0x1p-21;
    return word >> 31 ? -magnitude : magnitude;
}
