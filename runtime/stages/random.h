/* SPDX-License-Identifier: Apache-2.0 */
/* random.h - the kinds of random numbers of noisy passes. cl/philox.cl says how a number follows from
 * (seed, step, token, kind, element), with the same bits everywhere, and has the same kinds. */
#ifndef MOECL_RUNTIME_RANDOM_NUMBERS_H
#define MOECL_RUNTIME_RANDOM_NUMBERS_H

/* What a number is for. */
enum moecl_random_kind {
    MOECL_RANDOM_INPUT_JITTER = 1, /* element h: uniform, of x'[h] */
    MOECL_RANDOM_NOISE = 2,        /* element e: normal, of logit e */
    MOECL_RANDOM_SECOND = 3        /* element j: uniform; choice j stays where it is below the probability */
};

#endif
