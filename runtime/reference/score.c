/* SPDX-License-Identifier: Apache-2.0 */
/* score.c - scores and selection keys of a token's logits. */
#include <math.h>

#include "parts.h"
#include "router.h"

bool moecl_reference_is_masked(double logit)
{
    return isnan(logit) || logit == -INFINITY;
}

/* exp(z - the largest) over their sum; 0 where masked, and everywhere if all are. */
static void softmax(const double *logits, size_t count, double *shares)
{
    double largest = -INFINITY, sum = 0;
    for (size_t e = 0; e < count; e++)
        largest = fmax(largest, logits[e]); /* fmax passes NaN over */
    for (size_t e = 0; e < count; e++) {
        shares[e] = moecl_reference_is_masked(logits[e]) ? 0 : exp(logits[e] - largest);
        sum += shares[e];
    }
    for (size_t e = 0; sum > 0 && e < count; e++)
        shares[e] /= sum;
}

static double score_alone(moecl_score score, double logit)
{
    if (moecl_reference_is_masked(logit))
        return score == MOECL_SCORE_LOGIT || score == MOECL_SCORE_SPARSEMIXER ? -INFINITY : 0;
    switch (score) {
    case MOECL_SCORE_SIGMOID:
        return moecl_reference_sigmoid(logit);
    case MOECL_SCORE_SQRT_SOFTPLUS:
        return sqrt(moecl_reference_softplus(logit));
    default:
        return logit;
    }
}

void moecl_reference_score(const struct moecl_reference_router *router, const double *logits, double *scores,
                           double *group_scores)
{
    const size_t outputs = router->outputs, groups = router->groups, width = outputs / groups;
    switch (router->options->router.score) {
    case MOECL_SCORE_SOFTMAX:
        softmax(logits, outputs, scores);
        break;
    case MOECL_SCORE_HIERARCHICAL:
        softmax(&logits[outputs], groups, group_scores);
        for (size_t g = 0; g < groups; g++) {
            softmax(&logits[g * width], width, &scores[g * width]);
            for (size_t e = g * width; e < (g + 1) * width; e++)
                scores[e] *= group_scores[g];
        }
        break;
    default:
        for (size_t e = 0; e < outputs; e++)
            scores[e] = score_alone(router->options->router.score, logits[e]);
    }
}

bool moecl_reference_picks_by_logit(const struct moecl_reference_router *router)
{
    const moecl_router *options = &router->options->router;
    const bool grouped = router->groups > 1 && options->top_groups < router->groups;
    return options->score != MOECL_SCORE_HIERARCHICAL && !options->selection_biased &&
           options->selection != MOECL_SELECTION_EXPERT_CHOICE &&
           !(grouped &&
             (options->group_score == MOECL_GROUP_SCORE_SUM_OF_TWO || options->group_mask == MOECL_GROUP_MASK_ZERO));
}

void moecl_reference_keys(const struct moecl_reference_router *router, const double *logits, const double *scores,
                          double *keys)
{
    const double *bias = router->vectors[MOECL_VECTOR_SELECTION_BIAS];
    const double *source = moecl_reference_picks_by_logit(router) ? logits : scores;
    for (size_t e = 0; e < router->outputs; e++)
        keys[e] = moecl_reference_is_masked(logits[e]) ? -INFINITY : source[e] + (bias != NULL ? bias[e] : 0);
}
