/* SPDX-License-Identifier: Apache-2.0 */
/* random.h - the constants of the random numbers of noisy passes. cl/philox.cl says how a number follows from
 * (seed, step, token, kind, element), and has the same. */
#ifndef MOECL_RUNTIME_RANDOM_NUMBERS_H
#define MOECL_RUNTIME_RANDOM_NUMBERS_H

/* What a number is for. */
enum moecl_random_kind {
    MOECL_RANDOM_INPUT_JITTER = 1, /* element h: uniform, of x'[h] */
    MOECL_RANDOM_NOISE = 2,        /* element e: normal, of logit e */
    MOECL_RANDOM_SECOND = 3        /* element j: uniform; choice j stays where it is below the probability */
};

/* The second word of the counter is token | kind << this. */
enum { MOECL_RANDOM_KIND_SHIFT = 28 };

/* Philox 4x32: rounds, multipliers, and what the key grows by in each round. */
enum { MOECL_PHILOX_ROUNDS = 10 };
#define MOECL_PHILOX_MULTIPLIER_0 0xD2511F53u
#define MOECL_PHILOX_MULTIPLIER_1 0xCD9E8D57u
#define MOECL_PHILOX_KEY_STEP_0   0x9E3779B9u
#define MOECL_PHILOX_KEY_STEP_1   0xBB67AE85u

/* A uniform number is (2 * (word >> 9) + 1) * this. */
enum { MOECL_RANDOM_WORD_SHIFT = 9 };
#define MOECL_RANDOM_UNIFORM_UNIT 0x1p-24f

#endif
