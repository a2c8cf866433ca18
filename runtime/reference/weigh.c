/* SPDX-License-Identifier: Apache-2.0 */
/* weigh.c - the weights of a token's choices. */
#include <math.h>

#include "parts.h"
#include "philox.h"
#include "router.h"

/* exp(z - the largest chosen) over the sum of the chosen. */
static void weigh_by_softmax(const struct moecl_reference_router *router, const double *logits, const int32_t *ids,
                             double *weights)
{
    double largest = -INFINITY, sum = 0;
    for (size_t j = 0; j < router->slots; j++)
        if (ids[j] >= 0)
            largest = fmax(largest, logits[ids[j]]);
    for (size_t j = 0; j < router->slots; j++) {
        weights[j] = ids[j] >= 0 && !moecl_reference_is_masked(logits[ids[j]]) ? exp(logits[ids[j]] - largest) : 0;
        sum += weights[j];
    }
    for (size_t j = 0; sum > 0 && j < router->slots; j++)
        weights[j] /= sum;
}

void moecl_reference_weigh(const struct moecl_reference_router *router, const double *logits,
                           const double *choice_scores, const int32_t *ids, double *weights)
{
    const moecl_weight source = router->options->router.weight;
    if (source == MOECL_WEIGHT_SOFTMAX) {
        weigh_by_softmax(router, logits, ids, weights);
        return;
    }
    for (size_t j = 0; j < router->slots; j++) {
        if (ids[j] < 0 || moecl_reference_is_masked(logits[ids[j]]))
            weights[j] = 0;
        else if (source == MOECL_WEIGHT_SIGMOID)
            weights[j] = moecl_reference_sigmoid(logits[ids[j]]);
        else
            weights[j] = source == MOECL_WEIGHT_ONE ? 1 : choice_scores[j];
    }
}

bool moecl_reference_normalises_after(const struct moecl_reference_router *router)
{
    const moecl_capacity *capacity = &router->options->router.capacity;
    return capacity->kind != MOECL_CAPACITY_NONE && capacity->normalise_after;
}

static double normaliser(const moecl_router *options, const double *weights, size_t slots)
{
    const double epsilon = (double)options->epsilon, power = (double)options->power;
    double sum = 0;
    for (size_t j = 0; j < slots; j++)
        sum += options->normalisation == MOECL_NORMALISATION_POWER && weights[j] != 0 ? pow(fabs(weights[j]), power)
                                                                                      : weights[j];
    switch (options->normalisation) {
    case MOECL_NORMALISATION_SUM:
        return sum + epsilon;
    case MOECL_NORMALISATION_LARGER_SUM:
        return fmax(sum, epsilon);
    case MOECL_NORMALISATION_POWER:
        return pow(sum, 1 / power);
    case MOECL_NORMALISATION_NONE:
        break;
    }
    return 1;
}

void moecl_reference_normalise(const struct moecl_reference_router *router, double *weights)
{
    const double divisor = normaliser(&router->options->router, weights, router->slots);
    for (size_t j = 0; j < router->slots; j++)
        if (weights[j] != 0) /* a weight of 0 stays so, also where there is nothing else */
            weights[j] /= divisor;
}

void moecl_reference_scale(const struct moecl_reference_router *router, const int32_t *ids, double *weights)
{
    const double *expert_scale = router->vectors[MOECL_VECTOR_EXPERT_SCALE];
    const double scale = router->options->router.scale != 0 ? (double)router->options->router.scale : 1;
    for (size_t j = 0; j < router->slots; j++)
        if (ids[j] >= 0)
            weights[j] *= scale * (expert_scale != NULL ? expert_scale[ids[j]] : 1);
}

double moecl_reference_second_chance(const struct moecl_reference_router *router, size_t token, size_t choice)
{
    return moecl_philox_uniform(router->options->router.seed, router->step, token, choice, MOECL_PHILOX_SECOND);
}
