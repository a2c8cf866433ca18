/* SPDX-License-Identifier: Apache-2.0 */
/* philox.h - the random numbers of noisy passes, as cl/philox.cl says how they follow from where they are used. */
#ifndef MOECL_RUNTIME_REFERENCE_PHILOX_H
#define MOECL_RUNTIME_REFERENCE_PHILOX_H

#include <stddef.h>
#include <stdint.h>

/* What a number is for. */
enum moecl_philox_kind { MOECL_PHILOX_JITTER = 1, MOECL_PHILOX_NOISE = 2, MOECL_PHILOX_SECOND = 3 };

/* In (0,1), exact in fp32. */
double moecl_philox_uniform(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind);
/* N(0,1), exact in fp32. */
double moecl_philox_normal(uint64_t seed, uint64_t step, size_t token, size_t element, enum moecl_philox_kind kind);

#endif
