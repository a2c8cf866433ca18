/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - a device layer held against the reference: runs the forward pass, twice, and has its results checked. */
#include "verification.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "device/buffer.h"
#include "device/memory.h"
#include "layer/workspace.h"
#include "parts.h"
#include "random.h"
#include "staged.h"

/* ----------------------------------------------------------------------------------------------- judging -- */

void moecl_verify_judge(struct moecl_verification *verification, double error, double allowed, double scale,
                        const char *format, ...)
{
    moecl_verify_report *report = verification->report;
    if (!(error <= allowed))
        report->passed = false;
    if (!(error <= DBL_MAX))
        error = DBL_MAX;
    double share = error > 0 ? error / allowed : 0;
    if (share <= verification->worst)
        return;
    verification->worst = share;
    report->max_error = scale > 0 ? fmin(error / scale, DBL_MAX) : error;
    report->tolerance = scale > 0 ? allowed / scale : allowed;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report->worst, sizeof(report->worst), format, arguments);
    va_end(arguments);
}

double moecl_verify_roundoff(moecl_type type)
{
    switch (type) {
    case MOECL_F16:
        return 0x1p-11;
    case MOECL_BF16:
        return 0x1p-8;
    default:
        return 0x1p-24;
    }
}

double moecl_verify_rounding_of(double value, moecl_type type)
{
    double subnormal = type == MOECL_F16 ? 0x1p-25 : 0x1p-126; /* a device may flush those of f32 */
    return fabs(value) * moecl_verify_roundoff(type) + subnormal;
}

double moecl_verify_rounding(size_t terms)
{
    return 4 * sqrt((double)terms + 1) * moecl_verify_roundoff(MOECL_F32);
}

/* --------------------------------------------------------------------------------------- the forward pass -- */

/* Device memory of a forward pass, and the host's copies of a first and a second one. */
struct passes {
    size_t y_bytes, routing_bytes;
    cl_mem x, y, ids, weights, token_ids;
    int32_t *host_token_ids; /* [T]; NULL: the layer has no table */
    struct moecl_verify_chunk first, second;
};

static void passes_free(struct passes *passes)
{
    moecl_buffer_release(passes->x);
    moecl_buffer_release(passes->y);
    moecl_buffer_release(passes->ids);
    moecl_buffer_release(passes->weights);
    moecl_buffer_release(passes->token_ids);
    moecl_free(passes->host_token_ids);
    struct moecl_verify_chunk *chunks[] = {&passes->first, &passes->second};
    for (size_t i = 0; i < 2; i++) {
        moecl_free(chunks[i]->y);
        moecl_free(chunks[i]->ids);
        moecl_free(chunks[i]->weights);
    }
}

static moecl_status results_allocate(struct passes *passes, struct moecl_verify_chunk *chunk)
{
    chunk->y = moecl_allocate(passes->y_bytes, 1);
    chunk->ids = moecl_allocate(passes->routing_bytes, 1);
    chunk->weights = moecl_allocate(passes->routing_bytes, 1);
    return chunk->y && chunk->ids && chunk->weights ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

/* Token ids for a chunk, drawn at random out of the table's rows. */
static moecl_status token_ids_make(struct moecl_verification *verification, struct passes *passes, size_t tokens)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    if (verification->options->router.selection != MOECL_SELECTION_TABLE)
        return MOECL_OK;
    passes->host_token_ids = moecl_allocate(tokens, sizeof(int32_t));
    if (passes->host_token_ids == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_verify: no host memory for %zu tokens", tokens);
    for (size_t t = 0; t < tokens; t++)
        passes->host_token_ids[t] =
            (int32_t)(moecl_random_next(&verification->random) % verification->options->router.table_rows);
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, tokens * sizeof(int32_t), "token ids of moecl_verify",
                            &passes->token_ids));
    TRY(moecl_buffer_write(context, (moecl_buffer){passes->token_ids, 0}, tokens * sizeof(int32_t),
                           passes->host_token_ids));
out:
    return status;
}

static moecl_status passes_make(struct moecl_verification *verification, struct passes *passes, size_t tokens)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    const moecl_layer_options *options = verification->options;
    size_t values;
    if (!moecl_size_multiply(tokens, options->hidden, &values) ||
        !moecl_size_multiply(values, moecl_type_size(options->activations), &passes->y_bytes))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_verify: %zu tokens of %zu are too many", tokens,
             options->hidden);
    passes->routing_bytes = tokens * verification->router.slots * 4;
    if (results_allocate(passes, &passes->first) != MOECL_OK || results_allocate(passes, &passes->second) != MOECL_OK)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_verify: no host memory for %zu tokens", tokens);
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, passes->y_bytes, "x of moecl_verify", &passes->x));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, passes->y_bytes, "y of moecl_verify", &passes->y));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, passes->routing_bytes, "ids of moecl_verify", &passes->ids));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, passes->routing_bytes, "weights of moecl_verify",
                            &passes->weights));
    TRY(token_ids_make(verification, passes, tokens));
out:
    return status;
}

/* Runs the layer on the chunk's x. The outputs are full of NaN and of ids out of range before, so that what the layer
 * leaves unwritten shows. */
static moecl_status run_pass(struct moecl_verification *verification, const struct passes *passes,
                             struct moecl_verify_chunk *chunk)
{
    moecl_status status = MOECL_OK;
    struct moecl_context *context = verification->context;
    size_t y_bytes =
        chunk->tokens * verification->options->hidden * moecl_type_size(verification->options->activations);
    size_t routing_bytes = chunk->tokens * verification->router.slots * 4;
    moecl_forward forward = {.tokens = chunk->tokens,
                             .x = {passes->x, 0},
                             .y = {passes->y, 0},
                             .routing = {{passes->ids, 0}, {passes->weights, 0}},
                             .token_ids = {passes->token_ids, 0},
                             .noisy = verification->router.noisy,
                             .step = verification->router.step};
    memset(chunk->y, 0xff, y_bytes);
    memset(chunk->ids, 0xff, routing_bytes);
    TRY(moecl_buffer_write(context, forward.y, y_bytes, chunk->y));
    TRY(moecl_buffer_write(context, forward.routing.ids, routing_bytes, chunk->ids));
    TRY(moecl_buffer_write(context, forward.routing.weights, routing_bytes, chunk->ids));
    TRY(moecl_layer_forward(verification->layer, &forward, 0, NULL, NULL));
    TRY(moecl_layer_check(verification->layer));
    TRY(moecl_buffer_read(context, forward.y, y_bytes, chunk->y));
    TRY(moecl_buffer_read(context, forward.routing.ids, routing_bytes, chunk->ids));
    TRY(moecl_buffer_read(context, forward.routing.weights, routing_bytes, chunk->weights));
out:
    return status;
}

/* A chunk's two passes and their comparison with the reference. `first`, `tokens` and x are set in passes->first. */
static moecl_status verify_chunk(struct moecl_verification *verification, struct passes *passes)
{
    moecl_status status = MOECL_OK;
    struct moecl_verify_chunk *first = &passes->first, *second = &passes->second;
    const moecl_layer_options *options = verification->options;
    size_t values = first->tokens * options->hidden, routings = first->tokens * verification->router.slots;
    size_t y_bytes = values * moecl_type_size(options->activations);

    first->device_x = (moecl_buffer){passes->x, 0};
    first->token_ids = passes->host_token_ids;
    first->device_token_ids = (moecl_buffer){passes->token_ids, 0};
    second->tokens = first->tokens;
    moecl_convert(first->x, MOECL_F32, first->y, options->activations, values);
    TRY(moecl_buffer_write(verification->context, first->device_x, y_bytes, first->y));
    TRY(run_pass(verification, passes, first));
    TRY(run_pass(verification, passes, second));
    if (memcmp(first->y, second->y, y_bytes) != 0 || memcmp(first->ids, second->ids, routings * 4) != 0 ||
        memcmp(first->weights, second->weights, routings * 4) != 0) {
        verification->report->deterministic = false;
        verification->report->passed = false;
    }
    TRY(verification->report->method == MOECL_VERIFY_FULL ? moecl_verify_full(verification, first)
                                                          : moecl_verify_project(verification, first));
out:
    return status;
}

/* ----------------------------------------------------------------------------------------------- the call -- */

enum { CHEAP_PRODUCTS = 1 << 30, CHUNK_BYTES = 256 << 20 };

/* Full while the reference takes about half a second: a multiplication for every weight and row, and for every weight
 * the conversion of a few. */
static moecl_verify_method choose_method(const moecl_layer_options *options, size_t tokens)
{
    double expert = 3.0 * (double)options->hidden * (double)options->intermediate;
    double shared = 3.0 * (double)options->hidden * (double)options->shared_intermediate;
    double router = (double)options->experts * (double)options->hidden;
    double rows = (double)tokens * (double)options->top_k;
    double products = rows * expert + (double)tokens * (shared + router) + 4 * (double)options->experts * expert;
    return products <= CHEAP_PRODUCTS ? MOECL_VERIFY_FULL : MOECL_VERIFY_PROJECT;
}

/* The reference takes all tokens at once. Projection goes chunk by chunk, so that what the stages give stays small; a
 * chunk is one to the layer too, whose variant may round in another way for other numbers of rows (CLBlast does). */
static moecl_status choose_chunk(const struct moecl_verification *verification, size_t tokens, size_t *chunk)
{
    *chunk = tokens;
    if (tokens == 0 || verification->report->method == MOECL_VERIFY_FULL)
        return MOECL_OK;
    size_t most = CHUNK_BYTES / moecl_staged_token_bytes(verification->options) + 1;
    return moecl_workspace_chunk(verification->layer, tokens < most ? tokens : most, chunk);
}

static moecl_status check_arguments(moecl_context *context, const moecl_layer *layer,
                                    const moecl_layer_weights *weights, size_t tokens, const float *x,
                                    const moecl_verify_report *report)
{
    moecl_status status = MOECL_OK;
    if (layer == NULL || report == NULL || (tokens > 0 && x == NULL))
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_verify: layer, x and report may not be NULL");
    if (tokens > MOECL_MAX_TOKENS)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_verify: %zu tokens are more than %d", tokens,
             MOECL_MAX_TOKENS);
    if (moecl_reference_check(moecl_layer_describe(layer), weights) != MOECL_OK)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "moecl_verify: the weights have not the layer's shapes");
out:
    return status;
}

/* What noisy passes do otherwise than others. */
static bool has_random_options(const moecl_router *router)
{
    return router->noise || router->input_jitter > 0 || router->random_second;
}

/* All tokens, chunk by chunk. */
static moecl_status verify_tokens(struct moecl_verification *verification, size_t tokens, const float *x)
{
    moecl_status status = MOECL_OK;
    struct passes passes = {0};
    size_t chunk;
    TRY(choose_chunk(verification, tokens, &chunk));
    TRY(passes_make(verification, &passes, chunk));
    for (size_t first = 0; first < tokens; first += chunk) {
        passes.first.first = first;
        passes.first.tokens = tokens - first < chunk ? tokens - first : chunk;
        passes.first.x = x + first * verification->options->hidden;
        TRY(verify_chunk(verification, &passes));
    }
out:
    passes_free(&passes);
    return status;
}

moecl_status moecl_verify(moecl_context *context, moecl_layer *layer, const moecl_layer_weights *weights, size_t tokens,
                          const float *x, moecl_verify_method method, uint64_t seed, moecl_verify_report *report)
{
    moecl_status status = MOECL_OK;
    struct moecl_verification verification = {0};
    TRY(check_arguments(context, layer, weights, tokens, x, report));

    const moecl_layer_options *options = moecl_layer_describe(layer);
    const moecl_matrices *shared = moecl_layer_matrices(layer, MOECL_PART_SHARED_DOWN);
    *report = (moecl_verify_report){.passed = true, .deterministic = true};
    report->method = method == MOECL_VERIFY_AUTO ? choose_method(options, tokens) : method;
    verification = (struct moecl_verification){
        .context = context,
        .layer = layer,
        .options = options,
        .weights = weights,
        .h_type = moecl_matrices_describe(moecl_layer_matrices(layer, MOECL_PART_DOWN))->activations,
        .shared_h_type = shared ? moecl_matrices_describe(shared)->activations : MOECL_F32,
        .random = seed,
        .report = report,
        .worst = -1,
    };
    if (moecl_reference_router_open(&verification.router, options, weights) != MOECL_OK)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "moecl_verify: no host memory for the router's vectors");
    TRY(verify_tokens(&verification, tokens, x));
    if (has_random_options(&options->router)) {
        verification.router.noisy = true;
        verification.router.step = moecl_random_next(&verification.random);
        TRY(verify_tokens(&verification, tokens, x));
    }
out:
    moecl_reference_router_close(&verification.router);
    return status;
}
