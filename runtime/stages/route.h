/* SPDX-License-Identifier: Apache-2.0 */
/* route.h - the route stage: logits to expert ids and routing weights. The logits are a grouped GEMM of one group.
 * cl/route.cl says what is computed, and decides where moecl.h leaves a corner open. */
#ifndef MOECL_RUNTIME_ROUTE_H
#define MOECL_RUNTIME_ROUTE_H

#include <moecl/moecl.h>

#include "device/launch.h"

/* Kernels for the routers that these options describe. */
struct moecl_route_kernels {
    cl_kernel route, scores, finish;
    size_t experts, outputs, top_k; /* E, R, k */
    moecl_router router;
};
moecl_status moecl_route_kernels_create(struct moecl_context *context, const moecl_layer_options *options,
                                        struct moecl_route_kernels *kernels);
void moecl_route_kernels_release(struct moecl_route_kernels *kernels);

/* What the kernels are given of a chunk of tokens. */
struct moecl_route_call {
    size_t tokens;
    size_t first_token; /* the chunk's first token in the pass: the random numbers go by a token's number in the pass */
    moecl_buffer logits; /* f32 [tokens,stride], in and out: R router outputs and, of a hierarchical router, `groups`
                          * more; becomes z where there is a router bias, a softcap or noise */
    size_t stride;
    size_t noise_column; /* of the logits, in noisy passes with `noise`: the first of the R products W_noise x' */
    moecl_buffer router_bias, selection_bias, expert_scale; /* f32 [R], where the options have them */
    moecl_buffer table, token_ids; /* of MOECL_SELECTION_TABLE: i32 [table_rows,k], i32 [tokens] */
    moecl_buffer keys;    /* f32 [tokens,R]: selection keys, taken as they are; the logits are then z already, as
                           * moecl_route_scores_enqueue() leaves them. Memory NULL: the router's own keys */
    moecl_buffer scratch; /* moecl_route_scratch_bytes() of device memory */
    bool noisy;
    uint64_t step;
    moecl_routing routing; /* out: [tokens,k] */
    moecl_buffer flag;     /* u32: MOECL_FLAG_NOT_FINITE where a logit is NaN or +infinity, MOECL_FLAG_BAD_EXPERT where
                            * a token id is not of the table */
};

/* Bytes of scratch for `tokens` tokens; 0: none is needed. */
size_t moecl_route_scratch_bytes(const struct moecl_route_kernels *kernels, size_t tokens);
/* Logits to ids and weights: TOP_K and TABLE, and SINKHORN with the keys given. Where the capacity's `normalise_after`
 * is set, normalisation and scales are left to moecl_route_finish_enqueue(). */
moecl_status moecl_route_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                 const struct moecl_route_call *call);

/* Logits to z in place and, where `scores` (f32 [tokens,R]; memory NULL: not wanted) is there, the scores s of z; not
 * for SPARSEMIXER. For the selections that look at all tokens: Sinkhorn, expert choice. Of the call, all up to the
 * router bias, `noisy`, `step` and `flag` are read. */
moecl_status moecl_route_scores_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                        const struct moecl_route_call *call, moecl_buffer scores);

/* Normalises and scales weights in place: [tokens,slots], slots being any number; expert_scale as above. */
moecl_status moecl_route_finish_enqueue(const struct moecl_route_kernels *kernels, struct moecl_chain *chain,
                                        size_t tokens, size_t slots, moecl_routing routing, moecl_buffer expert_scale);

#endif
