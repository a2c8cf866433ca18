/* SPDX-License-Identifier: Apache-2.0 */
/* staged_check.c - every stage of a layer, checked on the device's own results of the stage before, so that errors do
 * not add up:
 *
 *   logits             against the reference, by what fp32 may make of them
 *   ids, weights       recomputed from the device's logits (routing_check.c): where logits pick, ids exactly
 *   router, gate       products of x: by projection
 *   permutation        recomputed: exactly
 *   input              a norm: element by element; a latent projection: by projection
 *   gate x, up x       by projection, expert by expert, before the activation (MOECL_PRODUCT_LINEAR)
 *   h                  element by element from those
 *   down               by projection, of h as the product sees it: rounded where a variant rounds it
 *   sum, latent output element by element, by projection
 *   y                  element by element from the experts' outputs; then the forward pass must give the same bits */
#include <math.h>
#include <string.h>

#include "bounds.h"
#include "device/memory.h"
#include "experts.h"
#include "function.h"
#include "layer/options.h"
#include "parts.h"
#include "projection.h"
#include "routing_check.h"
#include "staged.h"

/* What the checks work on, besides the stages' own results. A is T*slots, W the width of what experts read. */
struct work {
    double *x;                       /* [T,H], as the device sees it */
    double *logits, *logit_errors;   /* [T,columns] */
    int32_t *ids;                    /* [T,slots] */
    double *weights, *weight_errors; /* [T,slots] */
    double *y;                       /* [H], of a token */
    double *input;                   /* [T,W], or where weighted [A,W] in expert order: what experts read */
    double *h;                       /* [A,I] or [T,S], as the down product sees it */
    double *sum;                     /* [T,L] */
    size_t *offsets, *next;          /* [E+1] */
    size_t *sources;                 /* [A]: row -> assignment */
    int32_t *rows;                   /* [A]: assignment -> row, or -1 */
    size_t width;
};

static void work_free(struct work *work)
{
    void *arrays[] = {
        work->x,     work->logits, work->logit_errors, work->ids,     work->weights, work->weight_errors, work->y,
        work->input, work->h,      work->sum,          work->offsets, work->next,    work->sources,       work->rows};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        moecl_free(arrays[i]);
}

static moecl_status work_make(struct work *work, const struct moecl_reference_router *router,
                              const struct moecl_verify_chunk *chunk)
{
    const moecl_layer_options *options = router->options;
    const size_t tokens = chunk->tokens, assignments = tokens * router->slots;
    const size_t routed = assignments * options->intermediate, shared = tokens * options->shared_intermediate;
    work->width = options->latent > 0 ? options->latent : options->hidden;
    work->x = moecl_reference_doubles(tokens, options->hidden);
    work->logits = moecl_reference_doubles(tokens, router->columns);
    work->logit_errors = moecl_reference_doubles(tokens, router->columns);
    work->ids = moecl_allocate(assignments, sizeof(int32_t));
    work->weights = moecl_reference_doubles(tokens, router->slots);
    work->weight_errors = moecl_reference_doubles(tokens, router->slots);
    work->y = moecl_reference_doubles(1, options->hidden);
    work->input = moecl_reference_doubles(options->router.weight_on_input ? assignments : tokens, work->width);
    work->h = moecl_reference_doubles(1, routed > shared ? routed : shared);
    work->sum = moecl_reference_doubles(tokens, options->latent);
    work->offsets = moecl_allocate(options->experts + 1, sizeof(size_t));
    work->next = moecl_allocate(options->experts, sizeof(size_t));
    work->sources = moecl_allocate(assignments, sizeof(size_t));
    work->rows = moecl_allocate(assignments, sizeof(int32_t));
    if (!work->x || !work->logits || !work->logit_errors || !work->ids || !work->weights || !work->weight_errors ||
        !work->y || !work->input || !work->h || !work->sum || !work->offsets || !work->next || !work->sources ||
        !work->rows)
        return MOECL_OUT_OF_HOST_MEMORY;
    moecl_reference_read(chunk->x, MOECL_F32, options->activations, tokens * options->hidden, work->x);
    return MOECL_OK;
}

/* ------------------------------------------------------------------------------------------------- routing -- */

/* The products of x with the router and the shared gate; z against the reference, and then the device's in its place.
 * The groups' logits of a hierarchical router, which no one shows, stay the reference's, errors and all. */
static moecl_status check_logits(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_reference_router *router, const struct moecl_staged *staged,
                                 struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_weights *weights = verification->weights;
    const float *logits = staged->logits.host;
    const size_t columns = router->columns, outputs = router->outputs;
    struct moecl_product_rows rows = {
        .what = "router", .input = work->x, .output = staged->router.host, .stride = staged->router_columns};
    TRY(moecl_verify_product(verification, &rows, &weights->router, NULL, MOECL_F32, 0, chunk->tokens, 0));
    rows.what = "shared gate";
    if (moecl_shared_gate_rows(router->options) > 0)
        TRY(moecl_verify_product(verification, &rows, &weights->shared_gate, NULL, MOECL_F32, 0, chunk->tokens,
                                 columns));
    TRY(moecl_bound_logits(router, work->x, chunk->tokens, work->logits, work->logit_errors));
    for (size_t t = 0; t < chunk->tokens; t++)
        for (size_t e = 0; e < outputs; e++) {
            double *expected = &work->logits[t * columns + e], *allowed = &work->logit_errors[t * columns + e];
            double got = (double)logits[t * outputs + e];
            double error = got == *expected ? 0 : fabs(got - *expected);
            moecl_verify_judge(verification, error, *allowed, fabs(*expected),
                               "logits: token %zu, expert %zu is %.9g instead of %.9g", chunk->first + t, e, got,
                               *expected);
            if (error <= *allowed) { /* what follows goes by the device's, unless that is wrong */
                *expected = got;
                *allowed = 0;
            }
        }
out:
    return status;
}

static moecl_status check_routing(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                  const struct moecl_reference_router *router, const struct moecl_staged *staged,
                                  const struct work *work)
{
    return moecl_verify_routing(verification, &(struct moecl_routing_check){.router = router,
                                                                            .first = chunk->first,
                                                                            .tokens = chunk->tokens,
                                                                            .logits = work->logits,
                                                                            .errors = work->logit_errors,
                                                                            .ids = staged->ids.host,
                                                                            .weights = staged->weights.host,
                                                                            .expected_ids = work->ids,
                                                                            .expected = work->weights,
                                                                            .weight_errors = work->weight_errors});
}

/* A stable counting sort of the assignments by expert. */
static void sort_assignments(const int32_t *ids, size_t assignments, size_t experts, struct work *work)
{
    memset(work->offsets, 0, (experts + 1) * sizeof(size_t));
    for (size_t a = 0; a < assignments; a++)
        if (ids[a] >= 0 && (size_t)ids[a] < experts)
            work->offsets[ids[a] + 1]++;
    for (size_t e = 0; e < experts; e++) {
        work->offsets[e + 1] += work->offsets[e];
        work->next[e] = work->offsets[e];
    }
    for (size_t a = 0; a < assignments; a++) {
        work->rows[a] = -1;
        if (ids[a] >= 0 && (size_t)ids[a] < experts) {
            size_t row = work->next[ids[a]]++;
            work->rows[a] = (int32_t)row;
            work->sources[row] = a;
        }
    }
}

/* Sorts the assignments by the device's ids and compares; what follows uses the host's permutation, so that it cannot
 * be led astray. */
static void check_permutation(struct moecl_verification *verification, size_t assignments,
                              const struct moecl_staged *staged, struct work *work)
{
    size_t experts = verification->options->experts;
    const int32_t *ids = staged->ids.host, *rows = staged->rows.host;
    const uint32_t *offsets = staged->offsets.host, *sources = staged->assignments.host;
    sort_assignments(ids, assignments, experts, work);
    for (size_t e = 0; e <= experts; e++)
        if (offsets[e] != work->offsets[e])
            MOECL_VERIFY_WRONG(verification, "permutation: offset %zu is %u instead of %zu", e, (unsigned)offsets[e],
                               work->offsets[e]);
    for (size_t r = 0; r < work->offsets[experts]; r++)
        if (sources[r] != work->sources[r])
            MOECL_VERIFY_WRONG(verification, "permutation: row %zu has assignment %u instead of %zu", r,
                               (unsigned)sources[r], work->sources[r]);
    for (size_t a = 0; a < assignments; a++)
        if (rows[a] != work->rows[a])
            MOECL_VERIFY_WRONG(verification, "permutation: assignment %zu has row %d instead of %d", a, (int)rows[a],
                               (int)work->rows[a]);
}

/* ------------------------------------------------------------------------------------------------- experts -- */

/* A norm of x, element by element. */
static void check_norm(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                       const float *input, const struct work *work)
{
    const moecl_layer_options *options = verification->options;
    const size_t hidden = options->hidden;
    const double relative = moecl_bound_input(&options->expert_input, hidden);
    for (size_t t = 0; t < chunk->tokens; t++) {
        moecl_reference_input(&options->expert_input, verification->router.vectors[MOECL_VECTOR_EXPERT_NORM],
                              &work->x[t * hidden], hidden, work->y);
        for (size_t c = 0; c < hidden; c++) {
            double got = (double)input[t * hidden + c], expected = work->y[c];
            moecl_verify_judge(verification, fabs(got - expected), relative * fabs(expected) + 0x1p-126, fabs(expected),
                               "input: token %zu, column %zu is %.9g instead of %.9g", chunk->first + t, c, got,
                               expected);
        }
    }
}

/* The rows of the input [T,W] that experts read, in their order, times their weights, rounded. */
static void weigh_input(const struct moecl_verification *verification, const struct moecl_staged *staged,
                        const double *rows, struct work *work)
{
    const size_t width = work->width, slots = verification->router.slots;
    const float *weights = staged->weights.host;
    for (size_t r = 0; r < work->offsets[verification->options->experts]; r++) {
        const double *row = &rows[work->sources[r] / slots * width];
        for (size_t c = 0; c < width; c++) {
            const float product = (float)row[c] * weights[work->sources[r]];
            work->input[r * width + c] = (double)product;
        }
    }
}

/* What the experts read: checked where it is not x, and left in work->input. */
static moecl_status check_input(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                const struct moecl_staged *staged, struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    const float *input = staged->input.host;
    const size_t values = chunk->tokens * work->width;
    const struct moecl_product_rows latent = {
        .what = "latent projection", .input = work->x, .output = input, .stride = work->width};
    double *rows = NULL;
    if (options->latent > 0)
        TRY(moecl_verify_product(verification, &latent, &verification->weights->latent_down, NULL, options->weights, 0,
                                 chunk->tokens, 0));
    else if (input != NULL)
        check_norm(verification, chunk, input, work);
    rows = options->router.weight_on_input ? moecl_reference_doubles(chunk->tokens, work->width) : work->input;
    if (rows == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    if (input != NULL)
        moecl_reference_read(input, MOECL_F32, MOECL_F32, values, rows);
    else
        memcpy(rows, work->x, values * sizeof(double));
    if (options->router.weight_on_input)
        weigh_input(verification, staged, rows, work);
out:
    if (rows != work->input)
        moecl_free(rows);
    return status;
}

/* h of the device's gate and up. */
static void check_activation(struct moecl_verification *verification, const char *what,
                             const moecl_expert_function *function, const float *linear, const float *h, size_t rows,
                             size_t width)
{
    const size_t stride = function->ungated ? width : 2 * width;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++) {
            double gate = (double)linear[r * stride + i];
            double up = function->ungated ? gate : (double)linear[r * stride + width + i];
            double expected = moecl_reference_function(function, gate, up), got = (double)h[r * width + i];
            moecl_verify_judge(verification, fabs(got - expected), moecl_bound_function(function, gate, 0, up, 0),
                               fabs(expected), "%s: element %zu of row %zu is %.9g instead of %.9g", what, i, r, got,
                               expected);
        }
}

/* The rows begin to end - 1 of an expert's three products. */
struct expert_rows {
    const moecl_expert_weights *expert;
    const moecl_expert_function *function;
    struct moecl_product_rows gate, up, down;
    size_t intermediate;
};

static moecl_status check_expert(struct moecl_verification *verification, const struct expert_rows *rows, size_t begin,
                                 size_t end)
{
    moecl_status status = MOECL_OK;
    const moecl_expert_weights *expert = rows->expert;
    const bool biased = rows->function->biased, gated = !rows->function->ungated;
    const moecl_type storage = verification->options->weights;
    if (gated)
        TRY(moecl_verify_product(verification, &rows->gate, &expert->gate, biased ? &expert->gate_bias : NULL, storage,
                                 begin, end, 0));
    TRY(moecl_verify_product(verification, &rows->up, &expert->up, biased ? &expert->up_bias : NULL, storage, begin,
                             end, gated ? rows->intermediate : 0));
    TRY(moecl_verify_product(verification, &rows->down, &expert->down, biased ? &expert->down_bias : NULL, storage,
                             begin, end, 0));
out:
    return status;
}

static moecl_status check_experts(struct moecl_verification *verification, const struct moecl_staged *staged,
                                  struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    const bool weighted = options->router.weight_on_input;
    const size_t intermediate = options->intermediate, rows = work->offsets[options->experts];
    const size_t stride = options->function.ungated ? intermediate : 2 * intermediate;
    const size_t *sources = weighted ? NULL : work->sources, slots = verification->router.slots;
    struct expert_rows expert = {.function = &options->function,
                                 .gate = {"gate", work->input, sources, slots, staged->linear.host, stride},
                                 .up = {"up", work->input, sources, slots, staged->linear.host, stride},
                                 .down = {"down", work->h, NULL, 1, staged->z.host, work->width},
                                 .intermediate = intermediate};
    check_activation(verification, "h", &options->function, staged->linear.host, staged->h.host, rows, intermediate);
    moecl_reference_read(staged->h.host, MOECL_F32, verification->h_type, rows * intermediate, work->h);
    for (size_t e = 0; e < options->experts; e++) {
        expert.expert = &verification->weights->experts[e];
        TRY(check_expert(verification, &expert, work->offsets[e], work->offsets[e + 1]));
    }
out:
    return status;
}

static moecl_status check_shared(struct moecl_verification *verification, size_t tokens,
                                 const struct moecl_staged *staged, struct work *work)
{
    const moecl_layer_options *options = verification->options;
    const size_t width = options->shared_intermediate;
    const size_t stride = options->shared_function.ungated ? width : 2 * width;
    const struct expert_rows expert = {
        .expert = &verification->weights->shared,
        .function = &options->shared_function,
        .gate = {"shared gate projection", work->x, NULL, 1, staged->shared_linear.host, stride},
        .up = {"shared up", work->x, NULL, 1, staged->shared_linear.host, stride},
        .down = {"shared down", work->h, NULL, 1, staged->shared_z.host, options->hidden},
        .intermediate = width};
    if (width == 0)
        return MOECL_OK;
    check_activation(verification, "shared h", &options->shared_function, staged->shared_linear.host,
                     staged->shared_h.host, tokens, width);
    moecl_reference_read(staged->shared_h.host, MOECL_F32, verification->shared_h_type, tokens * width, work->h);
    return check_expert(verification, &expert, 0, tokens);
}

/* ------------------------------------------------------------------------------------------------- the sum -- */

/* Column c of the sum over token t's choices, and the magnitudes of its terms. */
static double sum_choices(const struct moecl_verification *verification, const struct moecl_staged *staged,
                          const struct work *work, size_t token, size_t column, double *magnitude)
{
    const struct moecl_reference_router *router = &verification->router;
    const size_t width = work->width, slots = router->slots;
    const float *weights = staged->weights.host, *z = staged->z.host;
    const int32_t *ids = staged->ids.host;
    double sum = 0;
    *magnitude = 0;
    for (size_t a = token * slots; a < (token + 1) * slots; a++) {
        const bool zero = ids[a] >= (int32_t)router->options->experts && ids[a] < (int32_t)router->outputs;
        if (work->rows[a] < 0 && !zero)
            continue;
        double output = zero ? work->x[token * width + column] : (double)z[(size_t)work->rows[a] * width + column];
        double term = router->options->router.weight_on_input ? output : (double)weights[a] * output;
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

/* The latent sum, and the product that brings it back. */
static moecl_status check_latent(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged, const struct work *work)
{
    const moecl_layer_options *options = verification->options;
    const size_t latent = options->latent;
    const double units = 2 * ((double)verification->router.slots + 1);
    const float *sum = staged->sum.host;
    const struct moecl_product_rows rows = {
        .what = "latent output", .input = work->sum, .output = staged->latent_output.host, .stride = options->hidden};
    if (latent == 0)
        return MOECL_OK;
    for (size_t t = 0; t < chunk->tokens; t++)
        for (size_t c = 0; c < latent; c++) {
            double magnitude, expected = sum_choices(verification, staged, work, t, c, &magnitude);
            double got = (double)sum[t * latent + c];
            moecl_verify_judge(verification, fabs(got - expected), units * 0x1p-24 * magnitude + 0x1p-126, magnitude,
                               "latent sum: token %zu, column %zu is %.9g instead of %.9g", chunk->first + t, c, got,
                               expected);
        }
    moecl_reference_read(sum, MOECL_F32, MOECL_F32, chunk->tokens * latent, work->sum);
    return moecl_verify_product(verification, &rows, &verification->weights->latent_up, NULL, options->weights, 0,
                                chunk->tokens, 0);
}

/* y from the device's weights, expert outputs and shared gate: products and sums, a sigmoid, and y's rounding. */
static void check_combine(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          const struct moecl_staged *staged, const struct work *work)
{
    const moecl_layer_options *options = verification->options;
    const size_t hidden = options->hidden, size = moecl_type_size(options->activations);
    const float *latent = staged->latent_output.host, *shared = staged->shared_z.host, *router = staged->router.host;
    const double *bias = verification->router.vectors[MOECL_VECTOR_OUTPUT_BIAS];
    const double units = 2 * ((double)verification->router.slots + 2) + (shared != NULL ? 32 : 0);
    for (size_t t = 0; t < chunk->tokens; t++) {
        double gates[2] = {0, 0}, c_0, c_1;
        for (size_t g = 0; g < moecl_shared_gate_rows(options); g++)
            gates[g] = (double)router[t * staged->router_columns + verification->router.columns + g];
        moecl_reference_coefficients(options, gates, &c_0, &c_1);
        moecl_reference_read((char *)staged->y.host + t * hidden * size, options->activations, options->activations,
                             hidden, work->y);
        for (size_t c = 0; c < hidden; c++) {
            double magnitude, sum;
            if (latent != NULL)
                magnitude = fabs(sum = (double)latent[t * hidden + c]);
            else
                sum = sum_choices(verification, staged, work, t, c, &magnitude);
            const double added = bias != NULL ? bias[c] : 0;
            const double other = shared != NULL ? c_1 * (double)shared[t * hidden + c] : 0;
            const double expected = c_0 * sum + added + other;
            magnitude = c_0 * magnitude + fabs(added) + fabs(other);
            double allowed = units * 0x1p-24 * magnitude + moecl_verify_rounding_of(expected, options->activations);
            moecl_verify_judge(verification, fabs(work->y[c] - expected), allowed, magnitude,
                               "combine: token %zu, column %zu is %.9g instead of %.9g", chunk->first + t, c,
                               work->y[c], expected);
        }
    }
}

/* The forward pass is its stages. */
static void check_forward(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          const struct moecl_staged *staged)
{
    const moecl_layer_options *options = verification->options;
    const size_t slots = verification->router.slots, routing_bytes = slots * 4;
    const size_t y_bytes = options->hidden * moecl_type_size(options->activations);
    for (size_t t = 0; t < chunk->tokens; t++) {
        size_t at = t * y_bytes, routing_at = t * slots;
        if (memcmp(&chunk->ids[routing_at], (int32_t *)staged->ids.host + routing_at, routing_bytes) != 0 ||
            memcmp(&chunk->weights[routing_at], (float *)staged->weights.host + routing_at, routing_bytes) != 0)
            MOECL_VERIFY_WRONG(verification, "the forward pass routes token %zu in other bits than the route stage",
                               chunk->first + t);
        if (memcmp((char *)chunk->y + at, (char *)staged->y.host + at, y_bytes) != 0)
            MOECL_VERIFY_WRONG(verification, "the forward pass gives other bits than its stages for token %zu",
                               chunk->first + t);
    }
}

moecl_status moecl_verify_staged(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    struct work work = {0};
    struct moecl_reference_router router = verification->router;
    router.token_ids = chunk->token_ids;
    TRY(work_make(&work, &router, chunk));
    TRY(check_logits(verification, chunk, &router, staged, &work));
    TRY(check_routing(verification, chunk, &router, staged, &work));
    check_permutation(verification, chunk->tokens * router.slots, staged, &work);
    TRY(check_input(verification, chunk, staged, &work));
    TRY(check_experts(verification, staged, &work));
    TRY(check_latent(verification, chunk, staged, &work));
    TRY(check_shared(verification, chunk->tokens, staged, &work));
    check_combine(verification, chunk, staged, &work);
    check_forward(verification, chunk, staged);
out:
    work_free(&work);
    if (status == MOECL_OUT_OF_HOST_MEMORY)
        moecl_error_set(&verification->context->error, status, "moecl_verify: no host memory to project %zu tokens",
                        chunk->tokens);
    return status;
}

moecl_status moecl_verify_project(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk)
{
    moecl_status status = MOECL_OK;
    struct moecl_staged staged = {0};
    TRY(moecl_staged_run(verification, chunk, &staged));
    TRY(moecl_verify_staged(verification, chunk, &staged));
out:
    moecl_staged_free(&staged);
    return status;
}
