/* SPDX-License-Identifier: Apache-2.0 */
/* select.c - which experts a token gets, by their keys. */
#include <math.h>

#include "router.h"

void moecl_reference_largest(const double *keys, size_t outputs, size_t count, int32_t *ids)
{
    for (size_t e = 0; e < outputs; e++) {
        size_t place = e < count ? e : count;
        while (place > 0 && keys[e] > keys[ids[place - 1]]) {
            place--;
            if (place + 1 < count)
                ids[place + 1] = ids[place];
        }
        if (place < count)
            ids[place] = (int32_t)e;
    }
}

void moecl_reference_score_groups(const struct moecl_reference_router *router, const double *keys, double *group_scores)
{
    const size_t width = router->outputs / router->groups;
    const bool two = router->options->router.group_score == MOECL_GROUP_SCORE_SUM_OF_TWO && width > 1;
    for (size_t g = 0; g < router->groups; g++) {
        double first = -INFINITY, second = -INFINITY;
        for (size_t e = g * width; e < (g + 1) * width; e++) {
            if (keys[e] > first) {
                second = first;
                first = keys[e];
            } else {
                second = fmax(second, keys[e]);
            }
        }
        group_scores[g] = two ? first + second : first;
    }
}

void moecl_reference_mask_groups(const struct moecl_reference_router *router, const double *group_scores, double *keys)
{
    const moecl_router *options = &router->options->router;
    const size_t width = router->outputs / router->groups;
    const double masked = options->group_mask == MOECL_GROUP_MASK_ZERO ? 0 : -INFINITY;
    int32_t best[MOECL_MAX_EXPERTS] = {0};
    bool stays[MOECL_MAX_EXPERTS] = {false};
    if (router->groups <= 1 || options->top_groups >= router->groups)
        return;
    moecl_reference_largest(group_scores, router->groups, options->top_groups, best);
    for (size_t i = 0; i < options->top_groups; i++)
        stays[best[i]] = true;
    for (size_t e = 0; e < router->outputs; e++)
        if (!stays[e / width] && keys[e] > -INFINITY)
            keys[e] = masked;
}

/* exp(z_e - m) over its sum, m being the largest z of the experts not taken, over those of them that are near m: by
 * (m - z) / max(|z|, m) <= 2 jitter. The largest is near itself, also where both are 0. */
static double sparsemixer_share(const double *logits, size_t outputs, const bool *taken, int32_t id, double jitter)
{
    double largest = -INFINITY, sum = 0;
    for (size_t e = 0; e < outputs; e++)
        if (!taken[e])
            largest = fmax(largest, logits[e]);
    for (size_t e = 0; e < outputs; e++)
        if (!taken[e] && largest - logits[e] <= 2 * jitter * fmax(fabs(logits[e]), largest))
            sum += exp(logits[e] - largest);
    return sum > 0 ? exp(logits[id] - largest) / sum : 0;
}

void moecl_reference_choice_scores(const struct moecl_reference_router *router, const double *logits,
                                   const double *scores, const int32_t *ids, double *choice_scores)
{
    const moecl_router *options = &router->options->router;
    bool taken[MOECL_MAX_EXPERTS] = {false};
    for (size_t j = 0; j < router->slots; j++) {
        if (ids[j] < 0 || moecl_reference_is_masked(logits[ids[j]])) {
            choice_scores[j] = 0;
            continue;
        }
        choice_scores[j] = scores[ids[j]];
        if (options->score == MOECL_SCORE_SPARSEMIXER)
            choice_scores[j] = sparsemixer_share(logits, router->outputs, taken, ids[j], (double)options->jitter);
        taken[ids[j]] = true;
    }
}

void moecl_reference_keep(const struct moecl_reference_router *router, const double *choice_scores, int32_t *ids)
{
    const double top_p = (double)router->options->router.top_p, threshold = (double)router->options->router.threshold;
    double mass = 0;
    for (size_t j = 0; j < router->slots; j++) {
        const bool beyond = top_p > 0 && mass >= top_p, below = threshold > 0 && choice_scores[j] < threshold;
        if (ids[j] < 0)
            continue;
        mass += choice_scores[j];
        if (j > 0 && (beyond || below))
            ids[j] = -1;
    }
}
