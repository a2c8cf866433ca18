/* SPDX-License-Identifier: Apache-2.0 */
/* synthetic.h - seeded weights, activations and routings.
 *
 * Every value is a function of (seed, stream, index) alone, so any part can be made by itself, in any order: a counter
 * goes through the finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
#ifndef TOOLS_SYNTHETIC_H
#define TOOLS_SYNTHETIC_H

#include <moecl/moecl.h>

/* A fresh seed for part `part` of what `seed` makes. */
uint64_t synthetic_seed(uint64_t seed, uint64_t part);
/* A whole number from `least` to `largest`, the n-th of the seed; the second with about equal shares to all scales. */
size_t synthetic_between(uint64_t seed, uint64_t n, size_t least, size_t largest);
size_t synthetic_between_scales(uint64_t seed, uint64_t n, size_t least, size_t largest);

/* `count` weights of a matrix with `in` columns: uniform, mean 0, standard deviation 1/sqrt(in). */
void synthetic_weights(uint64_t seed, size_t in, moecl_type type, void *weights, size_t count);
/* `count` activations: close to normal, mean 0, standard deviation 1. */
void synthetic_activations(uint64_t seed, float *activations, size_t count);

enum synthetic_routing {
    SYNTHETIC_UNIFORM, /* every expert as likely */
    SYNTHETIC_ZIPF,    /* the r-th most likely expert with a share of 1/r */
    SYNTHETIC_SINGLE   /* all tokens choose the same k experts */
};
extern const char *const synthetic_routing_names[]; /* ends with NULL */

/* The `call`-th routing of the seed: ids [T,k], distinct in a row, and weights [T,k] that add up to 1. Which experts
 * are the likely ones moves on from call to call. */
void synthetic_route(uint64_t seed, uint64_t call, enum synthetic_routing routing, size_t tokens, size_t experts,
                     size_t top_k, int32_t *ids, float *weights);

#endif
