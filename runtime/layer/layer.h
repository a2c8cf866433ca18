/* SPDX-License-Identifier: Apache-2.0 */
/* layer.h - a layer: its weights, its kernels, its workspace. */
#ifndef MOECL_RUNTIME_LAYER_H
#define MOECL_RUNTIME_LAYER_H

#include <moecl/stages.h>

#include "experts/matrices.h"
#include "stages/permute.h"
#include "stages/route.h"
#include "workspace.h"

struct moecl_layer {
    struct moecl_context *context;
    moecl_layer_options options;
    struct moecl_gemm *gemm;

    moecl_matrices *router; /* 1 group [E,H]; the shared expert's gate is row E where there is one */
    moecl_matrices *gate_up, *down;
    moecl_matrices *shared_gate_up, *shared_down; /* NULL: no shared expert */
    moecl_matrices *latent_down, *latent_up;      /* NULL: no latent projection */

    struct moecl_route_kernels route;
    struct moecl_permute_kernels permute;
    cl_kernel combine;

    cl_mem flag; /* u32, the bits of stages/flag.h */
    struct moecl_workspace workspace;
    struct moecl_grouping all, experts; /* of the chunk being queued: all rows as one group, rows by expert */
};

#endif
