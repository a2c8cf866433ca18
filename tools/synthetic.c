/* SPDX-License-Identifier: Apache-2.0 */
/* synthetic.c - counter-based random numbers and what is made of them. */
#include "synthetic.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const uint64_t golden_ratio = 0x9e3779b97f4a7c15u;

static inline uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The n-th 64 random bits of a seed. */
static inline uint64_t bits(uint64_t seed, uint64_t n)
{
    return mix(seed + (n + 1) * golden_ratio);
}

/* The n-th number of a seed in [0, 1). */
static double fraction(uint64_t seed, uint64_t n)
{
    return (double)(bits(seed, n) >> 11) * 0x1p-53;
}

uint64_t synthetic_seed(uint64_t seed, uint64_t part)
{
    return mix(mix(seed + golden_ratio) + part * golden_ratio);
}

size_t synthetic_between(uint64_t seed, uint64_t n, size_t least, size_t largest)
{
    return least + (size_t)(fraction(seed, n) * (double)(largest - least + 1));
}

size_t synthetic_between_scales(uint64_t seed, uint64_t n, size_t least, size_t largest)
{
    double ratio = (double)(largest + 1) / (double)least;
    size_t value = (size_t)((double)least * pow(ratio, fraction(seed, n)));
    return value < largest ? value : largest;
}

/* The four 16-bit parts of a word, as numbers symmetric about 0. */
static inline void spread(uint64_t word, float parts[4])
{
    for (int j = 0; j < 4; j++)
        parts[j] = (float)(int16_t)(word >> (16 * j)) + 0.5f;
}

void synthetic_weights(uint64_t seed, size_t in, moecl_type type, void *weights, size_t count)
{
    enum { BLOCK = 2048 }; /* stays in the first cache between making and rounding */
    float block[BLOCK];
    float scale = (float)(sqrt(12.0 / (double)in) / 65536); /* a uniform number of range 1 deviates by 1/sqrt(12) */
    size_t bytes = moecl_type_size(type);
    for (size_t start = 0; start < count; start += BLOCK) {
        for (size_t i = 0; i < BLOCK; i += 4) {
            spread(bits(seed, (start + i) / 4), block + i);
            for (size_t j = 0; j < 4; j++)
                block[i + j] *= scale;
        }
        size_t length = count - start < BLOCK ? count - start : BLOCK;
        moecl_convert(block, MOECL_F32, (char *)weights + start * bytes, type, length);
    }
}

void synthetic_activations(uint64_t seed, float *activations, size_t count)
{
    const float scale = (float)(sqrt(3.0) / 65536); /* the sum of four deviates by 1/sqrt(3) of a range */
    for (size_t i = 0; i < count; i++) {
        float parts[4];
        spread(bits(seed, i), parts);
        activations[i] = (parts[0] + parts[1] + parts[2] + parts[3]) * scale;
    }
}

/* ------------------------------------------------------------------------------------------------- routing -- */

const char *const synthetic_routing_names[] = {"uniform", "zipf", "single", NULL};

/* cumulative[r] = the probability of a rank below or equal to r. */
static void cumulate(enum synthetic_routing routing, size_t experts, double *cumulative)
{
    double sum = 0;
    for (size_t r = 0; r < experts; r++)
        cumulative[r] = sum += routing == SYNTHETIC_ZIPF ? 1.0 / (double)(r + 1) : 1.0;
    for (size_t r = 0; r < experts; r++)
        cumulative[r] /= sum;
}

/* The first rank whose cumulative probability is above `value`. */
static size_t rank_of(const double *cumulative, size_t experts, double value)
{
    size_t low = 0, high = experts - 1;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (cumulative[middle] > value)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Draws k distinct ranks of one token; *n counts the random numbers used. */
static void draw_ranks(uint64_t seed, uint64_t *n, const double *cumulative, size_t experts, size_t top_k,
                       size_t *ranks)
{
    bool taken[MOECL_MAX_EXPERTS] = {false};
    for (size_t j = 0; j < top_k;) {
        size_t rank = rank_of(cumulative, experts, fraction(seed, (*n)++));
        if (taken[rank])
            continue;
        taken[rank] = true;
        ranks[j++] = rank;
    }
}

void synthetic_route(uint64_t seed, uint64_t call, enum synthetic_routing routing, size_t tokens, size_t experts,
                     size_t top_k, int32_t *ids, float *weights)
{
    double cumulative[MOECL_MAX_EXPERTS];
    size_t ranks[MOECL_MAX_TOP_K];
    uint64_t key = synthetic_seed(seed, call), n = 0;
    size_t shift = (size_t)(call * top_k % experts);
    cumulate(routing, experts, cumulative);
    for (size_t j = 0; j < top_k; j++)
        ranks[j] = j;
    for (size_t t = 0; t < tokens; t++, ids += top_k, weights += top_k) {
        float sum = 0;
        if (routing != SYNTHETIC_SINGLE)
            draw_ranks(key, &n, cumulative, experts, top_k, ranks);
        for (size_t j = 0; j < top_k; j++) {
            ids[j] = (int32_t)((ranks[j] + shift) % experts);
            weights[j] = 0.25f + (float)fraction(key, n++);
            sum += weights[j];
        }
        for (size_t j = 0; j < top_k; j++)
            weights[j] /= sum;
    }
}
