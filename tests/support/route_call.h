/* SPDX-License-Identifier: Apache-2.0 */
/* route_call.h - one run of the route stage on the device, and its comparison with the model. */
#ifndef MOECL_TESTS_ROUTE_CALL_H
#define MOECL_TESTS_ROUTE_CALL_H

#include "device.h"
#include "router_model.h"
#include "stages/route.h"

/* A router, what it is given of some tokens, and what came of it. */
struct route {
    moecl_layer_options options;
    size_t outputs, groups; /* R; group logits */
    size_t tokens, first_token, stride, noise_column;
    float *logits; /* [tokens,stride] */
    float *router_bias, *selection_bias, *expert_scale;
    int32_t *table, *token_ids;
    float *keys; /* NULL: none */
    bool noisy;
    uint64_t step;
    float *z; /* [tokens,stride], afterwards */
    int32_t *ids;
    float *weights;
    uint32_t flag;
};

/* Logits, vectors and token ids of 0; keys NULL. */
struct route route_make(const moecl_layer_options *options, size_t tokens);
void route_free(struct route *route);

/* What lies on the device meanwhile, and the call on it. Downloading fills in z, ids, weights and flag, and releases.
 */
struct route_arrays {
    struct array logits, router_bias, selection_bias, expert_scale, table, token_ids, keys, scratch, ids, weights, flag;
};
struct route_arrays route_upload(moecl_context *context, const struct route *route, size_t scratch_bytes);
struct moecl_route_call route_call(const struct route *route, const struct route_arrays *arrays);
void route_download(moecl_context *context, struct route_arrays *arrays, struct route *route);

/* All of it: logits to ids and weights. */
void route_run(moecl_context *context, struct route *route);
/* The model's input of token t. */
struct model_input route_input(const struct route *route, size_t t);
/* Runs it and compares every token with the model: the same ids, and weights that agree to rounding. */
void route_check(moecl_context *context, struct route *route);

/* The rounding that scores and weights may show, relative to what they should be. */
#define ROUTE_TOLERANCE 3e-5

#endif
