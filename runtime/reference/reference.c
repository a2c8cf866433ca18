/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - the layer in double precision: its router, then its experts. */
#include <moecl/reference.h>

#include <string.h>

#include "device/error.h"
#include "device/memory.h"
#include "experts.h"
#include "parts.h"
#include "router.h"

static bool arguments_are_valid(const moecl_reference_call *call)
{
    if (call == NULL || moecl_reference_check(call->options, call->weights) != MOECL_OK)
        return false;
    if (call->tokens == 0)
        return true;
    const bool by_table = call->options->router.selection == MOECL_SELECTION_TABLE;
    return call->x != NULL && !(call->ids_given && (call->ids == NULL || call->routing_weights == NULL)) &&
           !(by_table && !call->ids_given && call->token_ids == NULL);
}

/* The logits, where anyone wants them, of x [T,H]. */
static moecl_status compute_logits(const moecl_reference_call *call, const struct moecl_reference_router *router,
                                   const double *x, double *logits)
{
    moecl_status status = MOECL_OK;
    if (call->ids_given && call->logits == NULL)
        return MOECL_OK;
    TRY(moecl_reference_logits(router, x, call->tokens, logits));
    for (size_t t = 0; call->logits != NULL && t < call->tokens; t++)
        memcpy(&call->logits[t * router->outputs], &logits[t * router->columns], router->outputs * sizeof(double));
out:
    return status;
}

moecl_status moecl_reference_forward(const moecl_reference_call *call)
{
    moecl_status status = MOECL_OK;
    struct moecl_reference_router router = {0};
    struct moecl_reference_routing routing = {0};
    double *x = NULL;
    if (!arguments_are_valid(call))
        return MOECL_INVALID_ARGUMENT;
    if (call->tokens == 0)
        return MOECL_OK;

    const moecl_layer_options *options = call->options;
    const size_t tokens = call->tokens;
    TRY(moecl_reference_router_open(&router, options, call->weights));
    router.noisy = call->noisy;
    router.step = call->step;
    router.token_ids = call->token_ids;
    TRY(moecl_reference_routing_make(&routing, &router, tokens));
    x = moecl_reference_doubles(tokens, options->hidden);
    if (x == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    moecl_reference_read(call->x, MOECL_F32, options->activations, tokens * options->hidden, x);
    TRY(compute_logits(call, &router, x, routing.logits));
    if (!call->ids_given) {
        TRY(moecl_reference_route(&router, tokens, &routing));
        if (call->ids != NULL)
            memcpy(call->ids, routing.ids, tokens * router.slots * sizeof(int32_t));
        if (call->routing_weights != NULL)
            memcpy(call->routing_weights, routing.weights, tokens * router.slots * sizeof(double));
    }
    if (call->y != NULL)
        TRY(moecl_reference_experts(&(struct moecl_reference_experts_call){
            .options = options,
            .weights = call->weights,
            .vectors = router.vectors,
            .tokens = tokens,
            .x = x,
            .ids = call->ids_given ? call->ids : routing.ids,
            .routing_weights = call->ids_given ? call->routing_weights : routing.weights,
            .y = call->y}));
out:
    moecl_reference_routing_free(&routing);
    moecl_reference_router_close(&router);
    moecl_free(x);
    return status;
}
