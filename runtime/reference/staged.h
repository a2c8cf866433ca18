/* SPDX-License-Identifier: Apache-2.0 */
/* staged.h - the stages of a layer run one by one, and what each gave. */
#ifndef MOECL_RUNTIME_REFERENCE_STAGED_H
#define MOECL_RUNTIME_REFERENCE_STAGED_H

#include "verification.h"

/* An array on the device and its copy in host memory. */
struct moecl_staged_array {
    cl_mem device;
    void *host;
    size_t bytes;
};

/* T tokens, R = T*k rows in expert order. */
struct moecl_staged {
    size_t router_columns;                   /* E, or E + 1 with the shared gate's logit behind */
    struct moecl_staged_array logits;        /* f32 [T,E], of moecl_route() */
    struct moecl_staged_array ids;           /* i32 [T,k] */
    struct moecl_staged_array weights;       /* f32 [T,k] */
    struct moecl_staged_array router;        /* f32 [T,router_columns], of the router's matrices */
    struct moecl_staged_array offsets;       /* u32 [E+1] */
    struct moecl_staged_array assignments;   /* u32 [R] */
    struct moecl_staged_array rows;          /* i32 [R] */
    struct moecl_staged_array linear;        /* f32 [R,2I]: gate x, up x */
    struct moecl_staged_array h;             /* f32 [R,I] */
    struct moecl_staged_array z;             /* f32 [R,H] */
    struct moecl_staged_array shared_linear; /* f32 [T,2S] */
    struct moecl_staged_array shared_h;      /* f32 [T,S] */
    struct moecl_staged_array shared_z;      /* f32 [T,H] */
    struct moecl_staged_array y;             /* activations [T,H] */
    struct moecl_staged_array whole;         /* u32 [2]: the offsets 0, T of a single group */
};

/* Bytes that the arrays have for each token. */
size_t moecl_staged_token_bytes(const moecl_layer_options *options);
/* Fills *staged (zeroed before), to be freed also after a failure. Blocks. */
moecl_status moecl_staged_run(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              struct moecl_staged *staged);
/* Checks each stage on the results of the one before, and the chunk's forward pass against them (projection.c). */
moecl_status moecl_verify_staged(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged);
void moecl_staged_free(struct moecl_staged *staged);

#endif
