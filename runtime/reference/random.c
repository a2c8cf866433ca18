/* SPDX-License-Identifier: Apache-2.0 */
/* random.c - repeatable random numbers. */
#include "random.h"

uint64_t moecl_random_next(uint64_t *state)
{
    uint64_t bits = *state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

double moecl_random_uniform(uint64_t *state)
{
    return (double)(moecl_random_next(state) >> 11) * 0x1p-53;
}
