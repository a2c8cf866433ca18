/* SPDX-License-Identifier: Apache-2.0 */
/* expert_choice.h - each expert takes its best tokens: scores of all tokens, selection, weights. */
#ifndef MOECL_RUNTIME_EXPERT_CHOICE_H
#define MOECL_RUNTIME_EXPERT_CHOICE_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_expert_choice_kernels {
    cl_kernel score, keys, select, write, weigh;
};
moecl_status moecl_expert_choice_kernels_create(struct moecl_context *context,
                                                struct moecl_expert_choice_kernels *kernels);
void moecl_expert_choice_kernels_release(struct moecl_expert_choice_kernels *kernels);

/* scores = score(logits), and -infinity where a logit is. Of moecl_score all but SPARSEMIXER, which has no scores of
 * its own; the logits are final (bias, softcap and noise are in them). */
struct moecl_scores_call {
    size_t tokens, experts;
    moecl_score score;
    size_t groups;       /* of HIERARCHICAL, whose groups' logits come behind the experts' */
    moecl_buffer logits; /* f32 [tokens, stride] */
    size_t stride;
    moecl_buffer scores; /* out: f32 [tokens, experts] */
    moecl_buffer flag;   /* u32: MOECL_FLAG_NOT_FINITE where a logit is NaN or +infinity */
};
moecl_status moecl_scores_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                  const struct moecl_scores_call *call);

/* The selection; weights are the scores. */
moecl_status moecl_expert_choice_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                         const moecl_expert_choice_call *call);

/* From scores to weights, over the choices that a token has: the router's weight source, normalisation, scale and
 * expert scale. */
struct moecl_choice_weights_call {
    size_t tokens, slots;
    const moecl_router *router;
    moecl_buffer logits; /* f32 [tokens, stride] */
    size_t stride;
    moecl_buffer expert_scale; /* f32; memory NULL: none */
    moecl_routing routing;     /* ids; weights in and out */
};
moecl_status moecl_choice_weights_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                          const struct moecl_choice_weights_call *call);

#endif
