/* SPDX-License-Identifier: Apache-2.0 */
/* routing.c - the routing of a pass, of its logits. */
#include <string.h>

#include "device/error.h"
#include "device/memory.h"
#include "parts.h"
#include "router.h"

moecl_status moecl_reference_routing_make(struct moecl_reference_routing *routing,
                                          const struct moecl_reference_router *router, size_t tokens)
{
    size_t choices;
    *routing = (struct moecl_reference_routing){0};
    if (!moecl_size_multiply(tokens, router->slots, &choices))
        return MOECL_OUT_OF_HOST_MEMORY;
    routing->logits = moecl_reference_doubles(tokens, router->columns);
    routing->picked = moecl_allocate(choices, sizeof(int32_t));
    routing->ids = moecl_allocate(choices, sizeof(int32_t));
    routing->weights = moecl_allocate(choices, sizeof(double));
    bool complete = routing->logits && routing->picked && routing->ids && routing->weights;
    return complete ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

void moecl_reference_routing_free(struct moecl_reference_routing *routing)
{
    moecl_free(routing->logits);
    moecl_free(routing->picked);
    moecl_free(routing->ids);
    moecl_free(routing->weights);
}

/* The choices of a token by the table; a token id out of range has none. */
static void look_up(const struct moecl_reference_router *router, size_t token, int32_t *ids)
{
    const size_t top_k = router->options->top_k, rows = router->options->router.table_rows;
    const int32_t id = router->token_ids[token];
    for (size_t j = 0; j < top_k; j++)
        ids[j] = id >= 0 && (size_t)id < rows ? router->weights->table[(size_t)id * top_k + j] : -1;
}

/* The k choices of a token that picks for itself. */
static void pick(const struct moecl_reference_router *router, const double *logits, const double *scores,
                 double *group_scores, int32_t *ids)
{
    double keys[MOECL_MAX_EXPERTS];
    moecl_reference_keys(router, logits, scores, keys);
    if (router->options->router.score != MOECL_SCORE_HIERARCHICAL)
        moecl_reference_score_groups(router, keys, group_scores);
    moecl_reference_mask_groups(router, group_scores, keys);
    moecl_reference_largest(keys, router->outputs, router->options->top_k, ids);
}

/* Drops choices j > 0 by chance, by their normalised weight. */
static void drop_seconds(const struct moecl_reference_router *router, size_t token, int32_t *ids, double *weights)
{
    double normalised[MOECL_MAX_EXPERTS];
    memcpy(normalised, weights, router->slots * sizeof(*weights));
    if (moecl_reference_normalises_after(router))
        moecl_reference_normalise(router, normalised);
    for (size_t j = 1; j < router->slots; j++)
        if (ids[j] >= 0 && moecl_reference_second_chance(router, token, j) >= 2 * normalised[j]) {
            ids[j] = -1;
            weights[j] = 0;
        }
}

/* What a token's choices weigh, and which of them stay: all but capacity and what comes after it. `ids` are picked. */
static void finish_token(const struct moecl_reference_router *router, size_t token, const double *logits,
                         const double *scores, struct moecl_reference_routing *routing)
{
    const moecl_router *options = &router->options->router;
    const size_t slots = router->slots;
    int32_t *ids = &routing->ids[token * slots];
    double *weights = &routing->weights[token * slots], choice_scores[MOECL_MAX_EXPERTS];
    memcpy(ids, &routing->picked[token * slots], slots * sizeof(*ids));
    moecl_reference_choice_scores(router, logits, scores, ids, choice_scores);
    moecl_reference_keep(router, choice_scores, ids);
    moecl_reference_weigh(router, logits, choice_scores, ids, weights);
    if (!moecl_reference_normalises_after(router))
        moecl_reference_normalise(router, weights);
    if (router->noisy && options->random_second)
        drop_seconds(router, token, ids, weights);
    if (!moecl_reference_normalises_after(router))
        moecl_reference_scale(router, ids, weights);
}

/* Fills routing->picked for the selections that look at all tokens. */
static moecl_status pick_together(const struct moecl_reference_router *router, size_t tokens,
                                  struct moecl_reference_routing *routing)
{
    moecl_status status = MOECL_OK;
    const size_t outputs = router->outputs;
    const bool sinkhorn = router->options->router.selection == MOECL_SELECTION_SINKHORN;
    double *keys = moecl_reference_doubles(tokens, outputs), scores[MOECL_MAX_EXPERTS], group_scores[MOECL_MAX_EXPERTS];
    if (keys == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    if (sinkhorn)
        TRY(moecl_reference_sinkhorn(router, routing->logits, tokens, keys));
    for (size_t t = 0; t < tokens; t++) {
        const double *logits = &routing->logits[t * router->columns];
        if (sinkhorn) {
            moecl_reference_largest(&keys[t * outputs], outputs, router->slots, &routing->picked[t * router->slots]);
            continue;
        }
        moecl_reference_score(router, logits, scores, group_scores);
        moecl_reference_keys(router, logits, scores, &keys[t * outputs]);
    }
    if (!sinkhorn)
        TRY(moecl_reference_expert_choice(router, keys, tokens, routing->picked));
out:
    moecl_free(keys);
    return status;
}

moecl_status moecl_reference_route(const struct moecl_reference_router *router, size_t tokens,
                                   struct moecl_reference_routing *routing)
{
    moecl_status status = MOECL_OK;
    const moecl_router *options = &router->options->router;
    const bool together =
        options->selection == MOECL_SELECTION_EXPERT_CHOICE || options->selection == MOECL_SELECTION_SINKHORN;
    double scores[MOECL_MAX_EXPERTS], group_scores[MOECL_MAX_EXPERTS];
    if (together)
        TRY(pick_together(router, tokens, routing));
    for (size_t t = 0; t < tokens; t++) {
        const double *logits = &routing->logits[t * router->columns];
        moecl_reference_score(router, logits, scores, group_scores);
        if (options->selection == MOECL_SELECTION_TABLE)
            look_up(router, t, &routing->picked[t * router->slots]);
        else if (!together)
            pick(router, logits, scores, group_scores, &routing->picked[t * router->slots]);
        finish_token(router, t, logits, scores, routing);
    }
    if (options->capacity.kind != MOECL_CAPACITY_NONE)
        TRY(moecl_reference_drop(router, tokens, routing->ids, routing->weights));
    for (size_t t = 0; moecl_reference_normalises_after(router) && t < tokens; t++) {
        moecl_reference_normalise(router, &routing->weights[t * router->slots]);
        moecl_reference_scale(router, &routing->ids[t * router->slots], &routing->weights[t * router->slots]);
    }
out:
    return status;
}
