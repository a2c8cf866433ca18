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

/* T tokens, A = T*slots assignments, of which some have a row; W columns of what experts read and give: H, or L. Arrays
 * of what the layer does not have stay empty. */
#define MOECL_STAGED_LIST(X)                                                                                           \
    X(logits)           /* f32 [T,R], of moecl_route() */                                                              \
    X(ids)              /* i32 [T,slots] */                                                                            \
    X(weights)          /* f32 [T,slots] */                                                                            \
    X(router)           /* f32 [T,router_columns], of the router's matrices and x itself */                            \
    X(offsets)          /* u32 [E+1] */                                                                                \
    X(assignments)      /* u32 [A] */                                                                                  \
    X(rows)             /* i32 [A] */                                                                                  \
    X(input)            /* f32 [T,W]: what experts read, where that is not x: its norm or latent projection */         \
    X(linear)           /* f32 [A,2I]: gate and up of the input; [A,I] where ungated */                                \
    X(h)                /* f32 [A,I] */                                                                                \
    X(rounded_h)        /* [A,I], of the type that the down product reads; where that is not f32 */                    \
    X(z)                /* f32 [A,W] */                                                                                \
    X(sum)              /* f32 [T,L]: the weighted sum, where there is a latent projection */                          \
    X(latent_output)    /* f32 [T,H]: that sum brought back */                                                         \
    X(shared_linear)    /* f32 [T,2S] or [T,S] */                                                                      \
    X(shared_h)         /* f32 [T,S] */                                                                                \
    X(rounded_shared_h) /* [T,S], the same as rounded_h of the shared expert */                                        \
    X(shared_z)         /* f32 [T,H] */                                                                                \
    X(y)                /* activations [T,H] */                                                                        \
    X(whole)            /* u32 [2]: the offsets 0, T of a single group */

struct moecl_staged {
    size_t router_columns; /* the router's rows, then the shared gate's, then the noise's */
#define MOECL_STAGED_ARRAY(name) struct moecl_staged_array name;
    MOECL_STAGED_LIST(MOECL_STAGED_ARRAY)
#undef MOECL_STAGED_ARRAY
};

/* Bytes that the arrays have for each token. */
size_t moecl_staged_token_bytes(const moecl_layer_options *options);
/* Fills *staged (zeroed before), to be freed also after a failure. Blocks. */
moecl_status moecl_staged_run(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              struct moecl_staged *staged);
/* Checks each stage on the results of the one before, and the chunk's forward pass against them (staged_check.c). */
moecl_status moecl_verify_staged(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged);
void moecl_staged_free(struct moecl_staged *staged);

#endif
