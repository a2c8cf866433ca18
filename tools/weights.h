/* SPDX-License-Identifier: Apache-2.0 */
/* weights.h - the synthetic weights of a whole layer, in host memory. */
#ifndef TOOLS_WEIGHTS_H
#define TOOLS_WEIGHTS_H

#include <moecl/model.h>

#include "fault.h"

/* Zero-initialise. */
struct weights {
    moecl_layer_weights layer;
    moecl_expert_weights *experts;
    char *memory; /* of all matrices */
};

/* Bytes of the matrices where all are of `type`. */
double weights_bytes(const moecl_layer_options *options, moecl_type type);
/* Makes them, all of `type`, whatever the layer's storage is. */
enum outcome weights_make(struct weights *weights, const moecl_layer_options *options, moecl_type type, uint64_t seed,
                          struct fault *fault);
void weights_free(struct weights *weights);

/* The gate, up and down matrices of one expert, made by itself into `memory` (of 3*H*I elements). */
moecl_expert_weights weights_make_expert(size_t hidden, size_t intermediate, moecl_type type, uint64_t seed,
                                         size_t expert, void *memory);

#endif
