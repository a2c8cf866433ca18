/* SPDX-License-Identifier: Apache-2.0 */
/* router_model.h - the router of moecl.h for one token, in double precision: written from that header alone, as a
 * second opinion on the kernels beside the library's own reference. It also tells how near the token was to another
 * choice. */
#ifndef MOECL_TESTS_ROUTER_MODEL_H
#define MOECL_TESTS_ROUTER_MODEL_H

#include <moecl/moecl.h>

/* Of one token. What the options do not have is not looked at. */
struct model_input {
    const float *logits;                                      /* [R]: W_router x' */
    const float *group_logits;                                /* [groups], of a hierarchical router */
    const float *noise_logits;                                /* [R]: W_noise x' */
    const float *router_bias, *selection_bias, *expert_scale; /* [R] */
    const float *keys;                                        /* [R]: given selection keys; NULL: none */
    const int32_t *table_row;                                 /* [k]; NULL: the token id is not of the table */
    bool noisy;
    uint64_t step;
    uint32_t token;
};

struct model_output {
    double z[MOECL_MAX_EXPERTS], scores[MOECL_MAX_EXPERTS];
    int32_t ids[MOECL_MAX_TOP_K];
    double weights[MOECL_MAX_TOP_K];
    double margin;    /* the smallest relative distance of two numbers whose order decided something; equal numbers,
                       * whose order the rules tell, do not count */
    double condition; /* by how much normalisation magnifies the relative errors of the weights */
};

void model_route(const moecl_layer_options *options, const struct model_input *input, struct model_output *output);
/* Normalisation and scales alone, over `slots` weights in place; gives the condition. */
double model_finish(const moecl_router *router, const float *expert_scale, const int32_t *ids, double *weights,
                    size_t slots);

/* C of `tokens` tokens, `value` being the number as it was written. */
size_t model_capacity(moecl_capacity_kind kind, double value, size_t tokens, size_t slots, size_t experts);
/* Takes back the choices that experts with room for `rows` have no room for. */
void model_drop(moecl_capacity_order order, size_t rows, size_t tokens, size_t slots, size_t experts, int32_t *ids,
                float *weights);

/* Ten rounds of Philox 4x32 over `counter`, in place. */
void model_philox(uint32_t counter[4], const uint32_t key[2]);
/* Element `element` of the random numbers of one token; kind as in cl/philox.cl. */
double model_uniform(uint64_t seed, uint64_t step, uint32_t token, uint32_t kind, uint32_t element);
double model_normal(uint64_t seed, uint64_t step, uint32_t token, uint32_t kind, uint32_t element);
/* The normal number of a word of Philox. */
double model_normal_of_word(uint32_t word);

#endif
