/* SPDX-License-Identifier: Apache-2.0 */
/* bounds.c - what fp32 may make of a routing.
 *
 * OpenCL allows exp and log 3 units in the last place, pow and tanh 16 and 5, a division 2.5, a root 3; a unit is at
 * most 2 u. Numbers below FLT_MIN may become 0. */
#include "bounds.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "parts.h"
#include "verification.h"

static const double u = 0x1p-24;

/* Of an elementary function and a few operations behind it, relative. */
static const double units = 16 * 0x1p-24;

double moecl_bound_product(size_t terms, double product, double squares)
{
    return moecl_verify_rounding(terms) * (fabs(product) + 3 * sqrt(squares)) + FLT_MIN;
}

double moecl_bound_inner_product(const double *a, const double *b, const double *e, size_t count, double *squares,
                                 double *spread)
{
    enum { PARTS = 4 };
    double sums[PARTS] = {0}, term_squares[PARTS] = {0}, error_squares[PARTS] = {0};
    for (size_t i = 0; i < count; i++) {
        const double term = a[i] * b[i], error = e != NULL ? a[i] * e[i] : 0;
        sums[i % PARTS] += term;
        term_squares[i % PARTS] += term * term;
        error_squares[i % PARTS] += error * error;
    }
    *squares = (term_squares[0] + term_squares[1]) + (term_squares[2] + term_squares[3]);
    *spread = sqrt((error_squares[0] + error_squares[1]) + (error_squares[2] + error_squares[3]));
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

double moecl_bound_input(const moecl_input *input, size_t hidden)
{
    return input->normalised ? units + moecl_verify_rounding(hidden) : 0;
}

/* The largest of the logits that are not masked, and of their errors. */
static void largest_of(const double *logits, const double *errors, size_t count, double *logit, double *error)
{
    *logit = -INFINITY;
    *error = 0;
    for (size_t e = 0; e < count; e++)
        if (!moecl_reference_is_masked(logits[e])) {
            *logit = fmax(*logit, logits[e]);
            *error = fmax(*error, errors[e]);
        }
}

/* exp(z - largest) / sum, relative: z - largest is rounded, exp and the division are, the sum is one of `count` terms;
 * an error of the logits is one of exp, and of the sum too. */
static double softmax_error(double logit, double error, double largest, double largest_error, size_t count)
{
    return (64 + 2 * (largest - logit)) * u + moecl_verify_rounding(count) + expm1(error + largest_error);
}

/* Errors of shares that are the softmax of the logits. */
static void bound_softmax(const double *logits, const double *errors, size_t count, const double *shares,
                          double *share_errors)
{
    double largest, largest_error;
    largest_of(logits, errors, count, &largest, &largest_error);
    for (size_t e = 0; e < count; e++)
        share_errors[e] =
            moecl_reference_is_masked(logits[e])
                ? 0
                : shares[e] * softmax_error(logits[e], errors[e], largest, largest_error, count) + FLT_MIN;
}

static double sqrt_softplus(double logit)
{
    return sqrt(moecl_reference_softplus(logit));
}

/* Of a rising function of a logit: what the logit's error does, and its own rounding. */
static double bound_rising(double (*function)(double), double logit, double error)
{
    const double value = function(logit);
    return fmax(function(logit + error) - value, value - function(logit - error)) + units * value;
}

static void bound_hierarchy(const struct moecl_reference_router *router, const double *logits, const double *errors,
                            struct moecl_token_bounds *bounds)
{
    const size_t width = router->outputs / router->groups;
    bound_softmax(&logits[router->outputs], &errors[router->outputs], router->groups, bounds->group_scores,
                  bounds->group_errors);
    for (size_t g = 0; g < router->groups; g++) {
        const double share = bounds->group_scores[g], share_error = bounds->group_errors[g];
        bound_softmax(&logits[g * width], &errors[g * width], width, &bounds->scores[g * width],
                      &bounds->score_errors[g * width]);
        for (size_t e = g * width; e < (g + 1) * width; e++)
            bounds->score_errors[e] += share > 0 ? bounds->scores[e] * (share_error / share + 2 * u) : share_error;
    }
}

void moecl_bound_scores(const struct moecl_reference_router *router, const double *logits, const double *errors,
                        struct moecl_token_bounds *bounds)
{
    moecl_reference_score(router, logits, bounds->scores, bounds->group_scores);
    switch (router->options->router.score) {
    case MOECL_SCORE_SOFTMAX:
        bound_softmax(logits, errors, router->outputs, bounds->scores, bounds->score_errors);
        break;
    case MOECL_SCORE_HIERARCHICAL:
        bound_hierarchy(router, logits, errors, bounds);
        break;
    case MOECL_SCORE_SIGMOID:
        for (size_t e = 0; e < router->outputs; e++)
            bounds->score_errors[e] = bound_rising(moecl_reference_sigmoid, logits[e], errors[e]) + FLT_MIN;
        break;
    case MOECL_SCORE_SQRT_SOFTPLUS:
        for (size_t e = 0; e < router->outputs; e++)
            bounds->score_errors[e] = bound_rising(sqrt_softplus, logits[e], errors[e]) + sqrt((double)FLT_MIN);
        break;
    default:
        memcpy(bounds->score_errors, errors, router->outputs * sizeof(double));
    }
}

void moecl_bound_keys(const struct moecl_reference_router *router, const double *logits, const double *errors,
                      struct moecl_token_bounds *bounds)
{
    const bool by_logit = moecl_reference_picks_by_logit(router);
    moecl_reference_keys(router, logits, bounds->scores, bounds->keys);
    for (size_t e = 0; e < router->outputs; e++)
        if (bounds->keys[e] == -INFINITY)
            bounds->key_errors[e] = 0;
        else
            bounds->key_errors[e] = by_logit ? errors[e] : bounds->score_errors[e] + u * fabs(bounds->keys[e]);
}

/* The exponentials' error goes into every row and column scale, and each of the two sums of a round adds its own; a key
 * has both scales. */
double moecl_bound_sinkhorn(const struct moecl_reference_router *router, const double *logits, const double *errors,
                            size_t tokens)
{
    const size_t outputs = router->outputs, asked = router->options->router.sinkhorn_iterations;
    const double rounds = asked > 0 ? (double)asked : 10;
    double exponential = 0;
    for (size_t t = 0; t < tokens; t++) {
        const double *z = &logits[t * router->columns], *dz = &errors[t * router->columns];
        double largest, largest_error;
        largest_of(z, dz, outputs, &largest, &largest_error);
        for (size_t e = 0; e < outputs; e++)
            if (!moecl_reference_is_masked(z[e]))
                exponential = fmax(exponential, (16 + 2 * (largest - z[e])) * u + expm1(dz[e] + largest_error));
    }
    return (4 * rounds + 1) * (exponential + moecl_verify_rounding(outputs) + moecl_verify_rounding(tokens) + 8 * u);
}

/* ------------------------------------------------------------------------------------------------- weights -- */

/* A round of the sparsemixer: experts so near its threshold that they may or may not be in the sum. */
static double sparsemixer_error(const struct moecl_reference_router *router, const double *logits, const double *errors,
                                const bool *taken, int32_t id, double share)
{
    const double jitter = (double)router->options->router.jitter;
    double largest = -INFINITY, error = 0, certain = 0, possible = 0;
    for (size_t e = 0; e < router->outputs; e++)
        if (!taken[e] && !moecl_reference_is_masked(logits[e])) {
            largest = fmax(largest, logits[e]);
            error = fmax(error, errors[e]);
        }
    for (size_t e = 0; e < router->outputs; e++) {
        if (taken[e] || moecl_reference_is_masked(logits[e]))
            continue;
        double beyond = largest - logits[e] - 2 * jitter * fmax(fabs(logits[e]), largest);
        double margin = (1 + 2 * jitter) * (error + errors[e] + 4 * u * (fabs(largest) + fabs(logits[e])));
        certain += beyond <= -margin ? exp(logits[e] - largest) : 0;
        possible += beyond <= margin ? exp(logits[e] - largest) : 0;
    }
    double own = exp(logits[id] - largest);
    certain = fmax(certain, own); /* it is in its own sum */
    double spread = possible > 0 ? own / certain - own / possible : 0;
    return spread + share * softmax_error(logits[id], errors[id], largest, error, router->outputs) + FLT_MIN;
}

void moecl_bound_choice_scores(const struct moecl_reference_router *router, const double *logits, const double *errors,
                               const struct moecl_token_bounds *bounds, const int32_t *ids, double *choice_scores,
                               double *choice_errors)
{
    bool taken[MOECL_MAX_EXPERTS] = {false};
    moecl_reference_choice_scores(router, logits, bounds->scores, ids, choice_scores);
    for (size_t j = 0; j < router->slots; j++) {
        choice_errors[j] = 0;
        if (ids[j] < 0)
            continue;
        choice_errors[j] = bounds->score_errors[ids[j]];
        if (router->options->router.score == MOECL_SCORE_SPARSEMIXER && !moecl_reference_is_masked(logits[ids[j]]))
            choice_errors[j] = sparsemixer_error(router, logits, errors, taken, ids[j], choice_scores[j]);
        taken[ids[j]] = true;
    }
}

void moecl_bound_weights(const struct moecl_reference_router *router, const double *logits, const double *errors,
                         const double *choice_scores, const double *choice_errors, const int32_t *ids, double *weights,
                         double *weight_errors)
{
    double largest = -INFINITY, largest_error = 0;
    moecl_reference_weigh(router, logits, choice_scores, ids, weights);
    for (size_t j = 0; j < router->slots; j++)
        if (ids[j] >= 0 && !moecl_reference_is_masked(logits[ids[j]])) {
            largest = fmax(largest, logits[ids[j]]);
            largest_error = fmax(largest_error, errors[ids[j]]);
        }
    for (size_t j = 0; j < router->slots; j++) {
        weight_errors[j] = 0;
        if (ids[j] < 0 || moecl_reference_is_masked(logits[ids[j]]))
            continue;
        const double logit = logits[ids[j]], error = errors[ids[j]];
        switch (router->options->router.weight) {
        case MOECL_WEIGHT_SCORE:
            weight_errors[j] = choice_errors[j];
            break;
        case MOECL_WEIGHT_SOFTMAX:
            weight_errors[j] =
                weights[j] * softmax_error(logit, error, largest, largest_error, router->slots) + FLT_MIN;
            break;
        case MOECL_WEIGHT_SIGMOID:
            weight_errors[j] = bound_rising(moecl_reference_sigmoid, logit, error) + FLT_MIN;
            break;
        case MOECL_WEIGHT_ONE:
            break;
        }
    }
}

/* (sum |w|^power)^(1/power), of weights moved by `side` of their errors. */
static double power_norm(const double *weights, const double *errors, size_t count, double power, double side)
{
    double sum = 0;
    for (size_t j = 0; j < count; j++) {
        double magnitude = fmax(fabs(weights[j]) + side * errors[j], 0);
        sum += magnitude > 0 ? pow(magnitude, power) : 0;
    }
    return pow(sum, 1 / power);
}

/* The normaliser and what it may be off by. */
static double bound_normaliser(const moecl_router *options, const double *weights, const double *errors, size_t count,
                               double *error)
{
    const double epsilon = (double)options->epsilon, power = (double)options->power;
    double sum = 0, magnitude = 0;
    *error = 0;
    for (size_t j = 0; j < count; j++) {
        sum += weights[j];
        magnitude += fabs(weights[j]);
        *error += errors[j];
    }
    *error += moecl_verify_rounding(count) * (magnitude + epsilon);
    switch (options->normalisation) {
    case MOECL_NORMALISATION_SUM:
        return sum + epsilon;
    case MOECL_NORMALISATION_LARGER_SUM:
        return fmax(sum, epsilon);
    case MOECL_NORMALISATION_POWER: {
        double norm = power_norm(weights, errors, count, power, 0);
        double above = power_norm(weights, errors, count, power, 1) - norm;
        double below = norm - power_norm(weights, errors, count, power, -1);
        double rounding = (32 * u + moecl_verify_rounding(count)) / power + 32 * u;
        *error = fmax(above, below) + norm * rounding;
        return norm;
    }
    case MOECL_NORMALISATION_NONE:
        break;
    }
    *error = 0;
    return 1;
}

void moecl_bound_normalise(const struct moecl_reference_router *router, double *weights, double *weight_errors)
{
    double error, divisor;
    if (router->options->router.normalisation == MOECL_NORMALISATION_NONE)
        return;
    divisor = bound_normaliser(&router->options->router, weights, weight_errors, router->slots, &error);
    moecl_reference_normalise(router, weights);
    for (size_t j = 0; j < router->slots; j++) {
        if (weights[j] == 0 && weight_errors[j] == 0)
            continue;
        double least = fabs(divisor) - error; /* what is left of the divisor may be anything, or nothing */
        weight_errors[j] =
            least > 0 ? (weight_errors[j] + fabs(weights[j]) * error) / least + units * fabs(weights[j]) + FLT_MIN
                      : INFINITY;
    }
}

void moecl_bound_scale(const struct moecl_reference_router *router, const int32_t *ids, double *weights,
                       double *weight_errors)
{
    const double *expert_scale = router->vectors[MOECL_VECTOR_EXPERT_SCALE];
    const double scale = router->options->router.scale != 0 ? fabs((double)router->options->router.scale) : 1;
    moecl_reference_scale(router, ids, weights);
    for (size_t j = 0; j < router->slots; j++) {
        if (ids[j] < 0 || (weights[j] == 0 && weight_errors[j] == 0))
            continue;
        double factor = scale * (expert_scale != NULL ? fabs(expert_scale[ids[j]]) : 1);
        weight_errors[j] = (factor > 0 ? weight_errors[j] * factor : 0) + 4 * u * fabs(weights[j]) + FLT_MIN;
    }
}
