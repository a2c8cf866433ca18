/* SPDX-License-Identifier: Apache-2.0 */
/* routing_check.c - a device's routing held against the reference's.
 *
 * Ids must be the reference's, but for near-ties. A near-tie is where keys, moved by no more than fp32's error
 * (bounds.h), would have given the device's ids: every choice must be able to come before all experts behind it. What
 * drops a choice (top-p, threshold, chance, capacity) has the same latitude and no more: a choice that is dropped needs
 * one of them that may drop it, one that is there none that must.
 *
 * A choice that was dropped does not tell which expert it was of. It is taken to be of the best expert that is left; if
 * another could be it as well, it is uncertain, and may take room from any expert. */
#include "routing_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "device/memory.h"
#include "parts.h"

struct work {
    const struct moecl_routing_check *check;
    struct moecl_reference_routing reference;
    struct moecl_token_bounds bounds;
    double *keys, *key_errors; /* [T,R], where keys look at all tokens */
    int32_t *list;             /* [T,slots]: the choices that ask for room, or -1 */
    double *weights, *errors;  /* [T,slots]: of those, before any is dropped for lack of room */
    bool *uncertain;           /* [T,slots] */
    bool *wrong;               /* [T] */
    bool *guessed;             /* [T]: a choice was dropped of which nobody knows which it was */
};

static void work_free(struct work *work)
{
    moecl_reference_routing_free(&work->reference);
    moecl_free(work->keys);
    moecl_free(work->key_errors);
    moecl_free(work->list);
    moecl_free(work->weights);
    moecl_free(work->errors);
    moecl_free(work->uncertain);
    moecl_free(work->wrong);
    moecl_free(work->guessed);
    moecl_free(work);
}

static bool looks_at_all(const struct moecl_reference_router *router)
{
    const moecl_selection selection = router->options->router.selection;
    return selection == MOECL_SELECTION_EXPERT_CHOICE || selection == MOECL_SELECTION_SINKHORN;
}

/* The reference's routing, and the keys of all tokens. */
static moecl_status work_fill(struct work *work)
{
    moecl_status status = MOECL_OK;
    const struct moecl_routing_check *check = work->check;
    const struct moecl_reference_router *router = check->router;
    const size_t outputs = router->outputs, columns = router->columns;
    memcpy(work->reference.logits, check->logits, check->tokens * columns * sizeof(double));
    TRY(moecl_reference_route(router, check->tokens, &work->reference));
    if (router->options->router.selection == MOECL_SELECTION_SINKHORN) {
        double relative = moecl_bound_sinkhorn(router, check->logits, check->errors, check->tokens);
        TRY(moecl_reference_sinkhorn(router, check->logits, check->tokens, work->keys));
        for (size_t i = 0; i < check->tokens * outputs; i++)
            work->key_errors[i] = work->keys[i] > -INFINITY ? relative * work->keys[i] + 0x1p-126 : 0;
    }
    for (size_t t = 0; router->options->router.selection == MOECL_SELECTION_EXPERT_CHOICE && t < check->tokens; t++) {
        moecl_bound_scores(router, &check->logits[t * columns], &check->errors[t * columns], &work->bounds);
        moecl_bound_keys(router, &check->logits[t * columns], &check->errors[t * columns], &work->bounds);
        memcpy(&work->keys[t * outputs], work->bounds.keys, outputs * sizeof(double));
        memcpy(&work->key_errors[t * outputs], work->bounds.key_errors, outputs * sizeof(double));
    }
out:
    return status;
}

static moecl_status work_make(const struct moecl_routing_check *check, struct work **made)
{
    moecl_status status = MOECL_OK;
    const struct moecl_reference_router *router = check->router;
    const size_t choices = check->tokens * router->slots, all = looks_at_all(router) ? check->tokens : 0;
    struct work *work = *made = moecl_allocate(1, sizeof(*work));
    if (work == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    work->check = check;
    TRY(moecl_reference_routing_make(&work->reference, router, check->tokens));
    work->keys = moecl_reference_doubles(all, router->outputs);
    work->key_errors = moecl_reference_doubles(all, router->outputs);
    work->list = moecl_allocate(choices, sizeof(int32_t));
    work->weights = moecl_allocate(choices, sizeof(double));
    work->errors = moecl_allocate(choices, sizeof(double));
    work->uncertain = moecl_allocate(choices, sizeof(bool));
    work->wrong = moecl_allocate(check->tokens, sizeof(bool));
    work->guessed = moecl_allocate(check->tokens, sizeof(bool));
    if (!work->keys || !work->key_errors || !work->list || !work->weights || !work->errors || !work->uncertain ||
        !work->wrong || !work->guessed)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    TRY(work_fill(work));
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------- the choices -- */

/* Whether a may stand before b; without errors, by the order that ties have. */
static bool may_precede(const double *keys, const double *errors, size_t a, size_t b)
{
    const double latitude = errors[a] + errors[b];
    if (latitude > 0)
        return keys[a] + latitude >= keys[b];
    return keys[a] > keys[b] || (keys[a] == keys[b] && a < b);
}

/* Whether these keys could have given the list [k] of different experts, in its order. */
static bool could_choose(const double *keys, const double *errors, size_t outputs, const int32_t *list, size_t top_k)
{
    bool taken[MOECL_MAX_EXPERTS] = {false};
    for (size_t j = 0; j < top_k; j++) {
        taken[list[j]] = true;
        for (size_t e = 0; e < outputs; e++)
            if (!taken[e] && !may_precede(keys, errors, (size_t)list[j], e))
                return false;
    }
    return true;
}

/* Fills the gaps that dropped choices left with the best experts that are left. false: ids out of range, or twice. */
static bool complete(const struct moecl_reference_router *router, const double *keys, const double *errors,
                     const int32_t *ids, int32_t *list, bool *uncertain)
{
    const size_t outputs = router->outputs;
    bool taken[MOECL_MAX_EXPERTS] = {false};
    for (size_t j = 0; j < router->slots; j++) {
        uncertain[j] = false;
        if (ids[j] == -1)
            continue;
        if (ids[j] < 0 || (size_t)ids[j] >= outputs || taken[ids[j]])
            return false;
        taken[ids[j]] = true;
    }
    for (size_t j = 0; j < router->slots; j++) {
        size_t best = outputs;
        list[j] = ids[j];
        if (ids[j] != -1)
            continue;
        for (size_t e = 0; e < outputs; e++)
            if (!taken[e] && (best == outputs || keys[e] > keys[best]))
                best = e;
        for (size_t e = 0; e < outputs; e++)
            uncertain[j] = uncertain[j] || (!taken[e] && e != best && may_precede(keys, errors, e, best));
        list[j] = (int32_t)best;
        taken[best] = true;
    }
    return true;
}

/* Masks the keys of the groups that lose, by the groups' scores as they are, or moved by their errors in favour of the
 * groups that the list has experts of. */
static void mask_groups(const struct moecl_reference_router *router, const struct moecl_token_bounds *bounds,
                        const int32_t *list, bool favour, double *keys, double *errors)
{
    const size_t outputs = router->outputs, width = outputs / router->groups;
    double nudged[MOECL_MAX_EXPERTS], scores[MOECL_MAX_EXPERTS];
    bool favoured[MOECL_MAX_EXPERTS] = {false};
    for (size_t j = 0; favour && j < router->slots; j++)
        favoured[(size_t)list[j] / width] = true;
    for (size_t e = 0; e < outputs; e++)
        nudged[e] = keys[e] + (!favour ? 0 : favoured[e / width] ? errors[e] : -errors[e]);
    if (router->options->router.score == MOECL_SCORE_HIERARCHICAL)
        for (size_t g = 0; g < router->groups; g++)
            scores[g] = bounds->group_scores[g] + (!favour       ? 0
                                                   : favoured[g] ? bounds->group_errors[g]
                                                                 : -bounds->group_errors[g]);
    else
        moecl_reference_score_groups(router, nudged, scores);
    for (size_t g = 0; favour && g < router->groups; g++) /* the sum of two is rounded */
        scores[g] += (favoured[g] ? 0x1p-23 : -0x1p-23) *
                     (router->options->router.group_score == MOECL_GROUP_SCORE_SUM_OF_TWO ? fabs(scores[g]) : 0);
    memcpy(nudged, keys, outputs * sizeof(double));
    moecl_reference_mask_groups(router, scores, keys);
    for (size_t e = 0; e < outputs; e++)
        if (keys[e] != nudged[e])
            errors[e] = 0;
}

/* The choices of token t, whose ids are not the reference's: whether they are a near-tie. */
static bool choose(struct work *work, size_t token, int32_t *list, bool *uncertain)
{
    const struct moecl_reference_router *router = work->check->router;
    const size_t outputs = router->outputs;
    const int32_t *ids = &work->check->ids[token * router->slots];
    double keys[MOECL_MAX_EXPERTS], errors[MOECL_MAX_EXPERTS];
    for (int attempt = 0; attempt < 2; attempt++) {
        const bool all = looks_at_all(router);
        memcpy(keys, all ? &work->keys[token * outputs] : work->bounds.keys, outputs * sizeof(double));
        memcpy(errors, all ? &work->key_errors[token * outputs] : work->bounds.key_errors, outputs * sizeof(double));
        if (!complete(router, keys, errors, ids, list, uncertain))
            return false;
        if (router->groups > 1 && router->options->router.selection == MOECL_SELECTION_TOP_K) {
            mask_groups(router, &work->bounds, list, attempt > 0, keys, errors);
            complete(router, keys, errors, ids, list, uncertain);
        }
        if (could_choose(keys, errors, outputs, list, router->slots))
            return true;
    }
    return false;
}

/* Where experts choose: whether expert e's tokens are those of its largest keys, or a near-tie of them; marks the
 * tokens that are wrong. */
static void check_expert_choice(struct work *work, size_t expert)
{
    const struct moecl_routing_check *check = work->check;
    const size_t slots = check->router->slots;
    size_t taken = 0;
    double least_taken = INFINITY, most_left = -INFINITY;
    for (size_t t = 0; t < check->tokens; t++) {
        const int32_t id = check->ids[t * slots + expert];
        const double key = work->keys[t * slots + expert], error = work->key_errors[t * slots + expert];
        work->wrong[t] = work->wrong[t] || (id != -1 && id != (int32_t)expert);
        taken += id != -1;
        if (id != -1)
            least_taken = fmin(least_taken, key + error);
        else
            most_left = fmax(most_left, key - error);
    }
    const bool possible =
        taken == moecl_reference_taken(check->router->options, check->tokens) && least_taken >= most_left;
    for (size_t t = 0; !possible && t < check->tokens; t++)
        if (check->ids[t * slots + expert] != work->reference.picked[t * slots + expert])
            work->wrong[t] = true;
}

/* Token t's choices before any was dropped; false: they cannot be. */
static bool find_choices(struct work *work, size_t token, int32_t *list, bool *uncertain)
{
    const struct moecl_reference_router *router = work->check->router;
    const int32_t *ids = &work->check->ids[token * router->slots];
    const int32_t *picked = &work->reference.picked[token * router->slots];
    const bool by_table = router->options->router.selection == MOECL_SELECTION_TABLE;
    bool same = true, dropped_by_chance = false;
    for (size_t j = 0; j < router->slots; j++) {
        same = same && (ids[j] == -1 || ids[j] == picked[j]);
        dropped_by_chance |= router->noisy && router->options->router.random_second && ids[j] == -1;
    }
    if (router->options->router.selection == MOECL_SELECTION_EXPERT_CHOICE) {
        memcpy(list, ids, router->slots * sizeof(*list));
        memset(uncertain, 0, router->slots * sizeof(*uncertain));
        return !work->wrong[token];
    }
    if (!by_table && (!same || dropped_by_chance) && choose(work, token, list, uncertain))
        return true;
    memcpy(list, picked, router->slots * sizeof(*list));
    memset(uncertain, 0, router->slots * sizeof(*uncertain));
    return same;
}

/* ------------------------------------------------------------------------------------- dropped by a token -- */

/* What top-p and threshold make of the choices. A choice that they may drop is taken to be dropped where the device has
 * none. false: one must have been dropped, or must not. */
static bool check_kept(const struct work *work, size_t token, const double *scores, const double *errors, int32_t *list)
{
    const struct moecl_reference_router *router = work->check->router;
    const double top_p = (double)router->options->router.top_p, threshold = (double)router->options->router.threshold;
    const int32_t *ids = &work->check->ids[token * router->slots];
    double mass = 0, mass_error = 0;
    for (size_t j = 0; j < router->slots; j++) {
        if (list[j] < 0)
            continue;
        const bool must = j > 0 && ((top_p > 0 && mass - mass_error >= top_p) ||
                                    (threshold > 0 && scores[j] + errors[j] < threshold));
        const bool may = j > 0 && ((top_p > 0 && mass + mass_error >= top_p) ||
                                   (threshold > 0 && scores[j] - errors[j] < threshold));
        if (must && ids[j] != -1)
            return false;
        mass += scores[j];
        mass_error += errors[j] + 0x1p-24 * fabs(mass);
        if (may && ids[j] == -1)
            list[j] = -1;
    }
    return true;
}

/* The same for choices that chance drops, by weights that are normalised for it if need be. Where a near-tie leaves
 * open which expert was dropped, its share of the sum is open too, and with it what chance had to do and all weights.
 */
static bool check_seconds(struct work *work, size_t token, int32_t *list, double *weights, double *errors,
                          bool *uncertain)
{
    const struct moecl_reference_router *router = work->check->router;
    const int32_t *ids = &work->check->ids[token * router->slots];
    double shares[MOECL_MAX_EXPERTS], share_errors[MOECL_MAX_EXPERTS];
    if (!router->noisy || !router->options->router.random_second)
        return true;
    for (size_t j = 0; j < router->slots; j++)
        work->guessed[token] = work->guessed[token] || uncertain[j];
    for (size_t j = 0; work->guessed[token] && j < router->slots; j++)
        if (ids[j] == -1) {
            list[j] = -1;
            weights[j] = errors[j] = 0;
            uncertain[j] = true;
        }
    if (work->guessed[token])
        return true;
    memcpy(shares, weights, router->slots * sizeof(double));
    memcpy(share_errors, errors, router->slots * sizeof(double));
    if (moecl_reference_normalises_after(router))
        moecl_bound_normalise(router, shares, share_errors);
    for (size_t j = 1; j < router->slots; j++) {
        if (list[j] < 0)
            continue;
        const double drawn = moecl_reference_second_chance(router, token, j);
        const bool must = drawn >= 2 * (shares[j] + share_errors[j]), may = drawn >= 2 * (shares[j] - share_errors[j]);
        if (must && ids[j] != -1)
            return false;
        if (must || (may && ids[j] == -1)) {
            list[j] = -1;
            weights[j] = errors[j] = 0;
            uncertain[j] = !must;
        }
    }
    return true;
}

/* Fills token t's list, weights and errors. false: its ids cannot be. */
static bool check_token(struct work *work, size_t token)
{
    const struct moecl_routing_check *check = work->check;
    const struct moecl_reference_router *router = check->router;
    const size_t at = token * router->slots;
    const double *logits = &check->logits[token * router->columns], *dz = &check->errors[token * router->columns];
    double scores[MOECL_MAX_EXPERTS], score_errors[MOECL_MAX_EXPERTS];
    double *weights = &work->weights[at], *errors = &work->errors[at];
    int32_t *list = &work->list[at];
    moecl_bound_scores(router, logits, dz, &work->bounds);
    moecl_bound_keys(router, logits, dz, &work->bounds);
    if (!find_choices(work, token, list, &work->uncertain[at]))
        return false;
    moecl_bound_choice_scores(router, logits, dz, &work->bounds, list, scores, score_errors);
    if (!check_kept(work, token, scores, score_errors, list))
        return false;
    moecl_bound_weights(router, logits, dz, scores, score_errors, list, weights, errors);
    if (!moecl_reference_normalises_after(router))
        moecl_bound_normalise(router, weights, errors);
    if (!check_seconds(work, token, list, weights, errors, &work->uncertain[at]))
        return false;
    if (!moecl_reference_normalises_after(router))
        moecl_bound_scale(router, list, weights, errors);
    return true;
}

/* ------------------------------------------------------------------------------------- dropped by an expert -- */

/* An assignment in the order in which an expert's room is given. */
struct applicant {
    int32_t expert; /* -1: none, but uncertain */
    double key, error;
    size_t place; /* ties go to the lower one */
    size_t assignment;
};

static int by_order(const void *first, const void *second)
{
    const struct applicant *a = first, *b = second;
    if (a->expert != b->expert)
        return a->expert < b->expert ? -1 : 1;
    if (a->key != b->key)
        return a->key > b->key ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static bool is_near(const struct applicant *a, const struct applicant *b)
{
    const double latitude = a->error + b->error;
    return latitude > 0 && fabs(a->key - b->key) <= latitude;
}

/* Judges the applicants of one expert, in order. `uncertain` more may have been among them. */
static void check_queue(struct work *work, const struct applicant *queue, size_t count, size_t room, size_t uncertain)
{
    const struct moecl_routing_check *check = work->check;
    for (size_t i = 0; i < count; i++) {
        size_t ahead = i, behind = i; /* those near i may come before it or after it */
        while (ahead > 0 && is_near(&queue[ahead - 1], &queue[i]))
            ahead--;
        while (behind + 1 < count && is_near(&queue[behind + 1], &queue[i]))
            behind++;
        const size_t at = queue[i].assignment;
        const bool dropped = check->ids[at] == -1, certain = !work->uncertain[at];
        if (!dropped && ahead >= room + uncertain)
            work->wrong[at / check->router->slots] = true;
        if (dropped && certain && behind + uncertain < room)
            work->wrong[at / check->router->slots] = true;
    }
}

static moecl_status check_capacity(struct work *work)
{
    moecl_status status = MOECL_OK;
    const struct moecl_routing_check *check = work->check;
    const moecl_layer_options *options = check->router->options;
    const size_t slots = check->router->slots, choices = check->tokens * slots;
    const size_t room = moecl_reference_capacity(options, check->tokens);
    size_t count = 0, uncertain = 0;
    struct applicant *applicants = moecl_allocate(choices, sizeof(*applicants));
    if (applicants == NULL)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    for (size_t a = 0; a < choices; a++) {
        const bool by_weight = options->router.capacity.order == MOECL_CAPACITY_ORDER_PROBABILITY;
        const bool by_choice = options->router.capacity.order == MOECL_CAPACITY_ORDER_CHOICE;
        uncertain += work->uncertain[a];
        if (work->list[a] >= 0 && (size_t)work->list[a] < options->experts)
            applicants[count++] =
                (struct applicant){work->list[a], by_weight ? work->weights[a] : 0, by_weight ? work->errors[a] : 0,
                                   by_choice ? a % slots * check->tokens + a / slots : a, a};
        else if (work->list[a] >= 0 && check->ids[a] == -1 && !work->uncertain[a])
            work->wrong[a / slots] = true; /* zero experts have room for all */
    }
    qsort(applicants, count, sizeof(*applicants), by_order);
    for (size_t begin = 0, end; begin < count; begin = end) {
        for (end = begin; end < count && applicants[end].expert == applicants[begin].expert;)
            end++;
        check_queue(work, &applicants[begin], end - begin, room, uncertain);
    }
out:
    moecl_free(applicants);
    return status;
}

/* Without capacity nothing that is on the list is dropped. */
static void check_all_there(struct work *work)
{
    const struct moecl_routing_check *check = work->check;
    const size_t slots = check->router->slots;
    for (size_t a = 0; a < check->tokens * slots; a++)
        if (work->list[a] >= 0 && check->ids[a] == -1)
            work->wrong[a / slots] = true;
}

/* ------------------------------------------------------------------------------------------------ the weights -- */

/* Judges token t's weights, and leaves in the check what they should be. */
static void check_weights(struct moecl_verification *verification, const struct work *work, size_t token)
{
    const struct moecl_routing_check *check = work->check;
    const struct moecl_reference_router *router = check->router;
    const size_t slots = router->slots, at = token * slots;
    const int32_t *ids = &check->ids[at];
    const bool guessed = work->guessed[token]; /* then they only must be finite, and 0 where there is no choice */
    double *expected = &check->expected[at], *errors = &check->weight_errors[at];
    for (size_t j = 0; j < slots; j++) {
        const double weight = guessed ? (double)check->weights[at + j] : work->weights[at + j];
        expected[j] = ids[j] >= 0 ? weight : 0;
        errors[j] = ids[j] >= 0 && !guessed ? work->errors[at + j] : 0;
    }
    if (!guessed && moecl_reference_normalises_after(router)) {
        moecl_bound_normalise(router, expected, errors);
        moecl_bound_scale(router, ids, expected, errors);
    }
    for (size_t j = 0; j < slots; j++) {
        double error = fabs((double)check->weights[at + j] - expected[j]);
        if (!(error <= errors[j]))
            moecl_verify_judge(verification, error, errors[j], fabs(expected[j]),
                               "weight %zu of token %zu is %.9g instead of %.9g", j, check->first + token,
                               (double)check->weights[at + j], expected[j]);
    }
}

static void judge_token(struct moecl_verification *verification, const struct work *work, size_t token)
{
    const struct moecl_routing_check *check = work->check;
    const size_t slots = check->router->slots, at = token * slots;
    const int32_t *ids = &check->ids[at], *exact = &work->reference.ids[at];
    const bool same = memcmp(ids, exact, slots * sizeof(*ids)) == 0;
    if (work->wrong[token] && !same) {
        verification->report->id_mismatches++;
        MOECL_VERIFY_WRONG(verification, "the expert ids of token %zu", check->first + token);
        memcpy(&check->expected_ids[at], exact, slots * sizeof(*ids));
        memcpy(&check->expected[at], &work->reference.weights[at], slots * sizeof(double));
        memset(&check->weight_errors[at], 0, slots * sizeof(double));
        return;
    }
    verification->report->near_ties += !same;
    memcpy(&check->expected_ids[at], ids, slots * sizeof(*ids));
    check_weights(verification, work, token);
}

moecl_status moecl_verify_routing(struct moecl_verification *verification, const struct moecl_routing_check *check)
{
    moecl_status status = MOECL_OK;
    struct work *work = NULL;
    const moecl_router *options = &check->router->options->router;
    TRY(work_make(check, &work));
    for (size_t e = 0; options->selection == MOECL_SELECTION_EXPERT_CHOICE && e < check->router->outputs; e++)
        check_expert_choice(work, e);
    for (size_t t = 0; t < check->tokens; t++)
        if (!check_token(work, t))
            work->wrong[t] = true;
    if (options->capacity.kind != MOECL_CAPACITY_NONE)
        TRY(check_capacity(work));
    else
        check_all_there(work);
    for (size_t t = 0; t < check->tokens; t++)
        judge_token(verification, work, t);
out:
    if (work != NULL)
        work_free(work);
    return status;
}
