/* SPDX-License-Identifier: Apache-2.0 */
/* random.c - random test data. */
#include "random.h"

#include <math.h>
#include <stdlib.h>

#include "reference/random.h"

size_t random_between(uint64_t *seed, size_t low, size_t high)
{
    return low + (size_t)(moecl_random_next(seed) % (high - low + 1));
}

/* Box and Muller 1958. */
void random_fill(uint64_t *seed, double deviation, float *values, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double radius = sqrt(-2.0 * log(1.0 - moecl_random_uniform(seed)));
        double angle = 6.283185307179586 * moecl_random_uniform(seed);
        values[i] = (float)(deviation * radius * cos(angle));
    }
}

size_t number_from_environment(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? (size_t)strtoull(text, NULL, 10) : otherwise;
}
