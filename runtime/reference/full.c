/* SPDX-License-Identifier: Apache-2.0 */
/* full.c - every output of a forward pass against the reference.
 *
 * Expert ids are compared exactly, but for near-ties: ids that logits within fp32's error of the reference's could have
 * given. There the reference is evaluated with the device's ids, so that y is checked all the same.
 *
 * What y may differ by, relative to max |y|, u = 2^-24 and c(K) = moecl_verify_rounding(K):
 *   c(H)          gate and up
 *   c(H) max|z|   the routing weights: an error of a logit is a relative error of exp
 *   c(I), k u     down; combine
 *   64 u          exp and divisions, each a few units in the last place by OpenCL's rules
 * Relative to max |y| this holds for sums whose terms do not conspire to cancel; it is never more than 1e-4. The
 * roundings to f16 or bf16 come on top: of h where a variant keeps it so, and of each element of y. */
#include "verification.h"

#include <math.h>
#include <string.h>

#include "device/memory.h"
#include "parts.h"

/* The reference's results for the chunk. */
struct reference {
    int32_t *ids;         /* [T,k] */
    double *weights;      /* [T,k] */
    double *logits;       /* [T,E] */
    double *y;            /* [T,H] */
    double *row;          /* [H], of x or of the router */
    double *router_norms; /* [E]: |w_e| */
};

static moecl_status reference_allocate(struct reference *reference, const moecl_layer_options *options, size_t tokens)
{
    reference->ids = moecl_allocate(tokens * options->top_k, sizeof(int32_t));
    reference->weights = moecl_allocate(tokens * options->top_k, sizeof(double));
    reference->logits = moecl_allocate(tokens * options->experts, sizeof(double));
    reference->y = moecl_allocate(tokens * options->hidden, sizeof(double));
    reference->row = moecl_allocate(options->hidden, sizeof(double));
    reference->router_norms = moecl_allocate(options->experts, sizeof(double));
    bool complete = reference->ids && reference->weights && reference->logits && reference->y && reference->row &&
                    reference->router_norms;
    return complete ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

static void reference_free(struct reference *reference)
{
    moecl_free(reference->ids);
    moecl_free(reference->weights);
    moecl_free(reference->logits);
    moecl_free(reference->y);
    moecl_free(reference->row);
    moecl_free(reference->router_norms);
}

static bool is_chosen(const int32_t *ids, size_t count, size_t expert)
{
    for (size_t j = 0; j < count; j++)
        if (ids[j] == (int32_t)expert)
            return true;
    return false;
}

/* Whether logits that differ from these by at most error_e = scale * norms[e] could have chosen `ids` in this order:
 * each choice must be able to reach those behind it. */
static bool could_choose(const double *logits, const double *norms, double scale, size_t experts, const int32_t *ids,
                         size_t top_k)
{
    double ceiling = INFINITY;
    for (size_t j = 0; j < top_k; j++) {
        if (ids[j] < 0 || (size_t)ids[j] >= experts || is_chosen(ids, j, (size_t)ids[j]))
            return false;
        double logit = logits[ids[j]], error = scale * norms[ids[j]];
        if (logit - error > ceiling)
            return false;
        ceiling = fmin(ceiling, logit + error);
    }
    for (size_t e = 0; e < experts; e++)
        if (!is_chosen(ids, top_k, e) && logits[e] - scale * norms[e] > ceiling)
            return false;
    return true;
}

static double norm(const double *values, size_t count)
{
    return sqrt(moecl_reference_inner_product(values, values, count));
}

/* Compares ids and weights, and leaves in the reference those to evaluate y with. */
static void check_routing(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          struct reference *reference)
{
    const moecl_layer_options *options = verification->options;
    size_t experts = options->experts, top_k = options->top_k, hidden = options->hidden;
    double largest_norm = 0;
    for (size_t e = 0; e < experts; e++) {
        moecl_reference_read_row(&verification->weights->router, e, MOECL_F32, reference->row);
        reference->router_norms[e] = norm(reference->row, hidden);
        largest_norm = fmax(largest_norm, reference->router_norms[e]);
    }
    for (size_t t = 0; t < chunk->tokens; t++) {
        moecl_reference_read(&chunk->x[t * hidden], MOECL_F32, options->activations, hidden, reference->row);
        const double scale = moecl_verify_rounding(hidden) * norm(reference->row, hidden);
        const double *logits = &reference->logits[t * experts];
        const int32_t *ids = &chunk->ids[t * top_k];
        int32_t *expected = &reference->ids[t * top_k];
        if (memcmp(ids, expected, top_k * sizeof(*ids)) != 0) {
            if (!could_choose(logits, reference->router_norms, scale, experts, ids, top_k)) {
                verification->report->id_mismatches++;
                MOECL_VERIFY_WRONG(verification, "the expert ids of token %zu", chunk->first + t);
                continue;
            }
            verification->report->near_ties++;
            memcpy(expected, ids, top_k * sizeof(*ids));
            moecl_reference_weigh(logits, experts, ids, top_k,
                                  options->router.normalisation != MOECL_NORMALISATION_NONE,
                                  &reference->weights[t * top_k]);
        }
        moecl_verify_weights(verification, chunk->first + t, &chunk->weights[t * top_k], logits, scale * largest_norm,
                             ids);
    }
}

static double output_tolerance(const struct moecl_verification *verification, double largest_logit)
{
    const moecl_layer_options *options = verification->options;
    size_t intermediate =
        options->intermediate > options->shared_intermediate ? options->intermediate : options->shared_intermediate;
    double f32 = moecl_verify_rounding(options->hidden) * (1 + largest_logit) + moecl_verify_rounding(intermediate) +
                 (64 + (double)options->top_k) * moecl_verify_roundoff(MOECL_F32);
    double h = verification->h_type == MOECL_F32 ? 0 : moecl_verify_roundoff(verification->h_type);
    return fmin(f32, 1e-4) + h;
}

static double largest_magnitude(const double *values, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs(values[i]));
    return largest;
}

static void check_output(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                         const struct reference *reference)
{
    const moecl_layer_options *options = verification->options;
    size_t hidden = options->hidden, size = moecl_type_size(options->activations);
    double largest = largest_magnitude(reference->y, chunk->tokens * hidden);
    double largest_logit = largest_magnitude(reference->logits, chunk->tokens * options->experts);
    double tolerance = output_tolerance(verification, largest_logit);
    for (size_t t = 0; t < chunk->tokens; t++) {
        const char *y = (const char *)chunk->y + t * hidden * size;
        moecl_reference_read(y, options->activations, options->activations, hidden, reference->row);
        for (size_t c = 0; c < hidden; c++) {
            double expected = reference->y[t * hidden + c], error = fabs(reference->row[c] - expected);
            double rounding = moecl_verify_rounding_of(expected, options->activations);
            moecl_verify_judge(verification, error, tolerance * largest + rounding, largest,
                               "y of token %zu, column %zu, is %.9g instead of %.9g", chunk->first + t, c,
                               reference->row[c], expected);
        }
    }
}

moecl_status moecl_verify_full(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk)
{
    moecl_status status = MOECL_OK;
    struct reference reference = {0};
    moecl_reference_call call = {
        .options = verification->options, .weights = verification->weights, .tokens = chunk->tokens, .x = chunk->x};
    TRY(reference_allocate(&reference, verification->options, chunk->tokens));
    call.ids = reference.ids;
    call.routing_weights = reference.weights;
    call.logits = reference.logits;
    TRY(moecl_reference_forward(&call));
    check_routing(verification, chunk, &reference);

    call.ids_given = true;
    call.logits = NULL;
    call.y = reference.y;
    TRY(moecl_reference_forward(&call));
    check_output(verification, chunk, &reference);
out:
    reference_free(&reference);
    if (status == MOECL_OUT_OF_HOST_MEMORY)
        moecl_error_set(&verification->context->error, status,
                        "moecl_verify: no host memory for a reference of %zu tokens", chunk->tokens);
    return status;
}
