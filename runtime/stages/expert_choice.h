/* SPDX-License-Identifier: Apache-2.0 */
/* expert_choice.h - each expert takes its best tokens. In a layer:
 *
 *     moecl_route_scores_enqueue      logits -> z, scores
 *     moecl_expert_choice_enqueue     scores -> ids, weights
 *     moecl_choice_weights_enqueue    weights that are not the scores
 *     moecl_route_finish_enqueue      normalised, scaled */
#ifndef MOECL_RUNTIME_EXPERT_CHOICE_H
#define MOECL_RUNTIME_EXPERT_CHOICE_H

#include <moecl/stages.h>

#include "device/launch.h"

struct moecl_expert_choice_kernels {
    cl_kernel keys, select, write, weigh;
};
moecl_status moecl_expert_choice_kernels_create(struct moecl_context *context,
                                                struct moecl_expert_choice_kernels *kernels);
void moecl_expert_choice_kernels_release(struct moecl_expert_choice_kernels *kernels);

/* The selection; weights are the scores. */
moecl_status moecl_expert_choice_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                         const moecl_expert_choice_call *call);

/* The weights of the choices [tokens, slots] out of their logits z, as `weight` says; of SCORE nothing is done. */
moecl_status moecl_choice_weights_enqueue(const struct moecl_expert_choice_kernels *kernels, struct moecl_chain *chain,
                                          size_t tokens, size_t slots, moecl_weight weight, moecl_buffer logits,
                                          size_t stride, moecl_routing routing);

#endif
