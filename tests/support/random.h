/* SPDX-License-Identifier: Apache-2.0 */
/* random.h - random test data; a seed is the state, and the same seed gives the same data everywhere. */
#ifndef MOECL_TESTS_RANDOM_H
#define MOECL_TESTS_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Uniform in low to high, both included. */
size_t random_between(uint64_t *seed, size_t low, size_t high);
/* `count` values of a normal distribution. */
void random_fill(uint64_t *seed, double deviation, float *values, size_t count);

/* The number in the environment variable `name`, or `otherwise`. */
size_t number_from_environment(const char *name, size_t otherwise);

#endif
