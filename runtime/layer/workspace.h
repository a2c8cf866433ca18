/* SPDX-License-Identifier: Apache-2.0 */
/* workspace.h - the device memory of a forward pass over one chunk of tokens.
 *
 * The layer's own workspace is a buffer for each region, so that none passes the device's largest allocation (and a
 * stray access is one outside a buffer, which simulators see). A caller's is one buffer, cut into regions. */
#ifndef MOECL_RUNTIME_WORKSPACE_H
#define MOECL_RUNTIME_WORKSPACE_H

#include "device/context.h"

/* Regions in the order of their first use; `tokens` are a chunk's, `pass` a whole pass's where routing depends on all
 * of them (options.h), else a chunk's too. */
#define MOECL_REGION_LIST(X)                                                                                           \
    X(ALL_OFFSETS)   /* u32 {0, tokens}: all rows as one group */                                                      \
    X(ALL_MAP)       /* the variant's map of it */                                                                     \
    X(ROUTER_INPUT)  /* f32 [tokens,H], where the router does not read x itself */                                     \
    X(ROUTER_PACKED) /* that in the variant's input form */                                                            \
    X(ALL_PACKED)    /* x as it is, in the input form; later the shared expert's output */                             \
    X(SHARED_PACKED) /* the same for products in pairs, where the shared expert's are */                               \
    X(LOGITS)        /* f32 [tokens or pass, router columns] */                                                        \
    X(SHARED_LOGITS) /* the same of x itself, where the router does not read it and the shared expert has a gate */    \
    X(ROUTE_SCRATCH)                                                                                                   \
    X(KEYS)         /* f32 [pass,R]: Sinkhorn's keys, or the scores that experts choose by */                          \
    X(CROSS_TOKENS) /* scratch of what routes all tokens: capacity, expert choice, Sinkhorn */                         \
    X(IDS)          /* i32 [pass,k] */                                                                                 \
    X(WEIGHTS)      /* f32 [pass,k] */                                                                                 \
    X(COUNTS)       /* the permutation's workspace */                                                                  \
    X(OFFSETS)      /* u32 [E+1] */                                                                                    \
    X(ASSIGNMENTS)  /* u32 [rows] */                                                                                   \
    X(ROWS)         /* i32 [tokens*k] */                                                                               \
    X(MAP)          /* the variant's map of the experts' rows */                                                       \
    X(EXPERT_INPUT) /* f32 [tokens,H or L], where experts do not read x itself; later the latent sum */                \
    X(PACKED)       /* x in expert order, in the input form; later z, the experts' outputs f32 [rows,H or L] */        \
    X(ACTIVATED)    /* h in the input form */                                                                          \
    X(SHARED_ACTIVATED)                                                                                                \
    X(LATENT_PACKED) /* the latent sum in the input form */                                                            \
    X(LATENT_OUTPUT) /* f32 [tokens,H] */                                                                              \
    X(SCRATCH)       /* the variant's */

enum moecl_region {
#define MOECL_REGION_ENUM(name) MOECL_REGION_##name,
    MOECL_REGION_LIST(MOECL_REGION_ENUM)
#undef MOECL_REGION_ENUM
        MOECL_REGION_COUNT
};

struct moecl_workspace {
    moecl_buffer region[MOECL_REGION_COUNT]; /* bound to one of the two below */
    cl_mem own[MOECL_REGION_COUNT];
    size_t own_pass, own_chunk; /* tokens that the own buffers hold */
    moecl_buffer given;         /* the caller's; memory NULL: none */
    size_t given_bytes;
};

/* How a forward pass over `tokens` tokens is cut: into chunks of this many, by the budget and the device's (or the
 * caller's) memory. MOECL_DEVICE_TOO_SMALL where not even one token fits. tokens > 0. */
moecl_status moecl_workspace_chunk(struct moecl_layer *layer, size_t tokens, size_t *chunk);
/* Binds the regions for a pass over `tokens` tokens in chunks of *chunk; grows the layer's own buffers if need be, or
 * makes *chunk smaller where they hold the pass so. */
moecl_status moecl_workspace_bind(struct moecl_layer *layer, size_t tokens, size_t *chunk);
void moecl_workspace_release(struct moecl_workspace *workspace);

#endif
