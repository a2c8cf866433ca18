/* SPDX-License-Identifier: Apache-2.0 */
/* random.h - repeatable random numbers: the same seed, the same numbers, everywhere. */
#ifndef MOECL_RUNTIME_REFERENCE_RANDOM_H
#define MOECL_RUNTIME_REFERENCE_RANDOM_H

#include <stdint.h>

/* splitmix64 (Steele, Lea, Flood 2014). Any *state is a seed. */
uint64_t moecl_random_next(uint64_t *state);
/* Uniform in [0,1). */
double moecl_random_uniform(uint64_t *state);

#endif
