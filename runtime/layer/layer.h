/* SPDX-License-Identifier: Apache-2.0 */
/* layer.h - a layer: its weights, its kernels, its workspace. */
#ifndef MOECL_RUNTIME_LAYER_H
#define MOECL_RUNTIME_LAYER_H

#include <moecl/stages.h>

#include "experts/matrices.h"
#include "options.h"
#include "stages/capacity.h"
#include "stages/expert_choice.h"
#include "stages/permute.h"
#include "stages/route.h"
#include "stages/sinkhorn.h"
#include "workspace.h"

struct moecl_layer {
    struct moecl_context *context;
    moecl_layer_options options;
    struct moecl_gemm *gemm;

    moecl_matrices *parts[MOECL_PART_COUNT]; /* NULL: the layer has no such part */
    cl_mem vectors[MOECL_VECTOR_COUNT];      /* f32; NULL: none */
    cl_mem table;                            /* i32 [table_rows, k]; NULL: none */

    /* Kernels; those of options that the layer has not are NULL. */
    struct moecl_route_kernels route;
    struct moecl_capacity_kernels capacity;
    struct moecl_expert_choice_kernels expert_choice;
    struct moecl_sinkhorn_kernels sinkhorn;
    struct moecl_permute_kernels permute;
    cl_kernel router_input, expert_input;
    cl_kernel combine, combine_latent; /* to y, to the latent sum */

    cl_mem flag; /* u32, the bits of stages/flag.h */
    struct moecl_workspace workspace;
    struct moecl_grouping all, experts; /* of the chunk being queued: all rows as one group, rows by expert */
};

/* Whether the shared expert's products of so many tokens are made in pairs, from an x of their own. */
static inline bool moecl_layer_shared_in_pairs(const struct moecl_layer *layer, size_t tokens)
{
    const moecl_matrices *matrices = layer->parts[MOECL_PART_SHARED_GATE_UP];
    return matrices && moecl_matrices_in_pairs(matrices, tokens);
}

#endif
