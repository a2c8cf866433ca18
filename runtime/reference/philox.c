/* SPDX-License-Identifier: Apache-2.0 */
/* philox.c - Philox 4x32-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3). */
#include "philox.h"

#include <math.h>

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

double moecl_philox_uniform(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind)
{
    uint32_t words[4] = {(uint32_t)(element / 4), (uint32_t)token | (uint32_t)kind << 28, (uint32_t)step,
                         (uint32_t)(step >> 32)};
    philox(words, seed);
    return (double)(2 * (words[element % 4] >> 9) + 1) * 0x1p-24;
}

double moecl_philox_normal(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind,
                           double *radius)
{
    const double u = moecl_philox_uniform(seed, step, token, element & ~(size_t)1, kind);
    const double angle = 6.28318530717958647693 * moecl_philox_uniform(seed, step, token, element | 1, kind);
    const double length = sqrt(-2 * log(u));
    if (radius != NULL)
        *radius = length;
    return length * (element % 2 == 0 ? cos(angle) : sin(angle));
}
