/* SPDX-License-Identifier: Apache-2.0 */
/* input.h - what a router or the experts read instead of x: cl/input.cl. */
#ifndef MOECL_RUNTIME_INPUT_H
#define MOECL_RUNTIME_INPUT_H

#include "device/launch.h"

moecl_status moecl_input_kernel_create(struct moecl_context *context, const moecl_input *options,
                                       moecl_type activations, cl_kernel *kernel);

struct moecl_input_call {
    const moecl_input *options;
    size_t tokens, hidden;
    moecl_buffer x;      /* activations [tokens,H] */
    moecl_buffer vector; /* f32 [H]; memory NULL: none */
    float jitter;        /* 0: none */
    uint64_t seed, step; /* of the jitter */
    size_t first_token;  /* the number of the first of them in the pass */
    moecl_buffer input;  /* out: f32 [tokens,H] */
};
moecl_status moecl_input_enqueue(cl_kernel kernel, struct moecl_chain *chain, const struct moecl_input_call *call);

#endif
