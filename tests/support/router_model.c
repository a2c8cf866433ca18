/* SPDX-License-Identifier: Apache-2.0 */
/* router_model.c - the router of moecl.h for one token, in double precision, by the plainest loops. */
#include "router_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../cl/normal_table.cl"

enum { KIND_NOISE = 2, KIND_SECOND = 3 };

/* -------------------------------------------------------------------------------------------- random numbers -- */

void model_philox(uint32_t counter[4], const uint32_t key[2])
{
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t first = (uint64_t)0xD2511F53 * counter[0], second = (uint64_t)0xCD9E8D57 * counter[2];
        const uint32_t next[4] = {(uint32_t)(second >> 32) ^ counter[1] ^ k0, (uint32_t)second,
                                  (uint32_t)(first >> 32) ^ counter[3] ^ k1, (uint32_t)first};
        memcpy(counter, next, sizeof(next));
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
}

static uint32_t random_word(uint64_t seed, uint64_t step, uint32_t token, uint32_t kind, uint32_t element)
{
    uint32_t counter[4] = {element / 4, token | kind << 28, (uint32_t)step, (uint32_t)(step >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    model_philox(counter, key);
    return counter[element % 4];
}

double model_uniform(uint64_t seed, uint64_t step, uint32_t token, uint32_t kind, uint32_t element)
{
    return (2.0 * (double)(random_word(seed, step, token, kind, element) >> 9) + 1.0) / 16777216.0;
}

double model_normal_of_word(uint32_t word)
{
    const uint32_t odd = 2 * (word % 0x80000000) + 1;
    size_t octave = 0;
    while (odd < (uint64_t)0x80000000 >> octave)
        octave++;
    const uint64_t y = ((uint64_t)1 << 32) - ((uint64_t)odd << octave);
    static const int powers[] = {4, 3, 2, 1, 0};
    uint64_t sum = normal_table[octave][5];
    sum = (sum * y) >> 32; /* a coefficient of y^6 there is not */
    sum = (sum * y) >> 32;
    for (size_t i = 0; i < 5; i++)
        sum = ((sum * y) >> 32) + normal_table[octave][powers[i]];
    const double magnitude = floor((double)sum / 256 + 0.5) / 2097152;
    return word < 0x80000000 ? magnitude : -magnitude;
}

double model_normal(uint64_t seed, uint64_t step, uint32_t token, uint32_t kind, uint32_t element)
{
    return model_normal_of_word(random_word(seed, step, token, kind, element));
}

/* ---------------------------------------------------------------------------------------------------- scores -- */

static double softplus(double z)
{
    return (z > 0 ? z : 0) + log1p(exp(-fabs(z)));
}

static double sigmoid(double z)
{
    return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z));
}

/* Softmax of `count` logits; 0 where they are -infinity. */
static void softmax(const double *z, size_t count, double *p)
{
    double most = -INFINITY, sum = 0;
    for (size_t e = 0; e < count; e++)
        most = fmax(most, z[e]);
    for (size_t e = 0; e < count; e++)
        sum += p[e] = z[e] == -INFINITY ? 0 : exp(z[e] - most);
    for (size_t e = 0; e < count; e++)
        p[e] = sum > 0 ? p[e] / sum : 0;
}

static void hierarchical(const struct model_input *input, size_t outputs, size_t groups, const double *z, double *s)
{
    double group_z[MOECL_MAX_EXPERTS] = {0}, p[MOECL_MAX_EXPERTS];
    const size_t size = outputs / groups;
    for (size_t g = 0; g < groups; g++)
        group_z[g] = input->group_logits[g];
    softmax(group_z, groups, p);
    for (size_t g = 0; g < groups; g++) {
        softmax(z + g * size, size, s + g * size);
        for (size_t e = g * size; e < (g + 1) * size; e++)
            s[e] *= p[g];
    }
}

static void find_z(const moecl_router *router, const struct model_input *input, size_t outputs, double *z)
{
    for (size_t e = 0; e < outputs; e++) {
        z[e] = input->logits[e];
        if (router->biased)
            z[e] += input->router_bias[e];
        if (router->softcap > 0)
            z[e] = router->softcap * tanh(z[e] / router->softcap);
        if (router->noise && input->noisy)
            z[e] += model_normal(router->seed, input->step, input->token, KIND_NOISE, (uint32_t)e) *
                    softplus(input->noise_logits[e]);
    }
}

static void find_scores(const moecl_router *router, const struct model_input *input, size_t outputs, const double *z,
                        double *s)
{
    const bool two_levels = router->score == MOECL_SCORE_HIERARCHICAL && router->groups > 0;
    if (router->score == MOECL_SCORE_SOFTMAX || router->score == MOECL_SCORE_HIERARCHICAL)
        softmax(z, outputs, s);
    if (two_levels)
        hierarchical(input, outputs, router->groups, z, s);
    for (size_t e = 0; e < outputs; e++) {
        if (router->score == MOECL_SCORE_SIGMOID)
            s[e] = sigmoid(z[e]);
        if (router->score == MOECL_SCORE_SQRT_SOFTPLUS)
            s[e] = sqrt(softplus(z[e]));
        if (router->score == MOECL_SCORE_LOGIT || router->score == MOECL_SCORE_SPARSEMIXER)
            s[e] = z[e];
    }
}

/* ------------------------------------------------------------------------------------------------- selection -- */

/* Something to be ranked, and the size of what it was added up from. */
struct key {
    double value, size;
    size_t index;
};

static int by_falling_value(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void note(double *margin, double distance, double size)
{
    if (distance != 0 && isfinite(distance))
        *margin = fmin(*margin, fabs(distance) / fmax(size, 1e-300));
}

/* The distances between the first `chosen` of `count` sorted keys and the one of the next lower value behind them. */
static void note_choice(double *margin, const struct key *keys, size_t first, size_t chosen, size_t count)
{
    for (size_t i = first; i < chosen; i++) {
        size_t next = i + 1;
        while (next < count && keys[next].value == keys[i].value)
            next++;
        if (next < count)
            note(margin, keys[i].value - keys[next].value, keys[i].size + keys[next].size);
    }
}

/* The largest and the second largest of `count` keys added up, or the largest alone. */
static struct key group_key(const struct key *keys, size_t count, bool two, size_t index)
{
    struct key sorted[MOECL_MAX_EXPERTS];
    memcpy(sorted, keys, count * sizeof(*keys));
    qsort(sorted, count, sizeof(*sorted), by_falling_value);
    struct key key = sorted[0];
    if (two && count > 1) {
        key.value += sorted[1].value;
        key.size += sorted[1].size;
    }
    key.index = index;
    return key;
}

/* Masks the keys of the groups that lose. */
static void limit_groups(const moecl_router *router, const struct model_input *input, size_t outputs, struct key *keys,
                         double *margin)
{
    struct key groups[MOECL_MAX_EXPERTS];
    const size_t size = outputs / router->groups;
    for (size_t g = 0; g < router->groups; g++) {
        groups[g] = group_key(keys + g * size, size, router->group_score == MOECL_GROUP_SCORE_SUM_OF_TWO, g);
        if (router->score == MOECL_SCORE_HIERARCHICAL) /* whose probability rises with its logit */
            groups[g].value = groups[g].size = input->group_logits[g];
        groups[g].size = fabs(groups[g].size);
    }
    qsort(groups, router->groups, sizeof(*groups), by_falling_value);
    note_choice(margin, groups, router->top_groups - 1, router->top_groups, router->groups);
    for (size_t i = router->top_groups; i < router->groups; i++)
        for (size_t e = groups[i].index * size; e < (groups[i].index + 1) * size; e++)
            if (router->group_mask == MOECL_GROUP_MASK_INFINITE)
                keys[e].value = -INFINITY;
            else if (keys[e].value > -INFINITY)
                keys[e].value = keys[e].size = 0;
}

static void choose(const moecl_layer_options *options, const struct model_input *input, size_t outputs,
                   struct model_output *output)
{
    const moecl_router *router = &options->router;
    struct key keys[MOECL_MAX_EXPERTS];
    for (size_t e = 0; e < outputs; e++) {
        keys[e] = (struct key){output->scores[e], fabs(output->scores[e]), e};
        if (router->score == MOECL_SCORE_LOGIT || router->score == MOECL_SCORE_SPARSEMIXER)
            keys[e].size += 1; /* what z was added up from */
        if (router->selection_biased) {
            keys[e].value += input->selection_bias[e];
            keys[e].size += fabs((double)input->selection_bias[e]);
        }
        if (input->keys)
            keys[e].value = keys[e].size = input->keys[e];
        if (output->z[e] == -INFINITY)
            keys[e].value = -INFINITY;
    }
    if (router->groups > 1 && router->top_groups < router->groups)
        limit_groups(router, input, outputs, keys, &output->margin);
    qsort(keys, outputs, sizeof(*keys), by_falling_value);
    for (size_t j = 0; j < options->top_k; j++)
        output->ids[j] = (int32_t)keys[j].index;
    note_choice(&output->margin, keys, 0, options->top_k, outputs);
}

/* --------------------------------------------------------------------------------------------------- weights -- */

/* The scores of the choices, one after the other; a sparsemixer has one softmax for each. */
static void choice_scores(const moecl_layer_options *options, size_t outputs, struct model_output *output, double *s)
{
    bool taken[MOECL_MAX_EXPERTS] = {false};
    const double limit = 2 * (double)options->router.jitter;
    for (size_t j = 0; j < options->top_k; j++) {
        const int32_t id = output->ids[j];
        s[j] = id < 0 || output->z[id] == -INFINITY ? 0 : output->scores[id];
        if (id < 0 || options->router.score != MOECL_SCORE_SPARSEMIXER)
            continue;
        double most = -INFINITY, sum = 0;
        for (size_t e = 0; e < outputs; e++)
            if (!taken[e])
                most = fmax(most, output->z[e]);
        s[j] = 0;
        for (size_t e = 0; e < outputs; e++) {
            const double z = output->z[e], distance = (most - z) / fmax(fabs(z), most);
            if (taken[e] || z == -INFINITY)
                continue;
            if (most != z)
                note(&output->margin, distance - limit, distance + limit);
            if (distance > limit)
                continue;
            sum += exp(z - most);
            if ((int32_t)e == id)
                s[j] = exp(z - most);
        }
        s[j] = sum > 0 ? s[j] / sum : 0;
        taken[id] = true;
    }
}

static void limit_choices(const moecl_layer_options *options, const double *s, struct model_output *output)
{
    const moecl_router *router = &options->router;
    double mass = 0;
    for (size_t j = 0; j < options->top_k; j++) {
        if (j > 0 && router->top_p > 0) {
            note(&output->margin, mass - router->top_p, router->top_p);
            if (mass >= router->top_p)
                output->ids[j] = -1;
        }
        if (j > 0 && router->threshold > 0) {
            note(&output->margin, s[j] - router->threshold, router->threshold);
            if (s[j] < router->threshold)
                output->ids[j] = -1;
        }
        mass += s[j];
    }
}

static void weigh(const moecl_layer_options *options, const double *s, struct model_output *output)
{
    double z[MOECL_MAX_TOP_K] = {0}, p[MOECL_MAX_TOP_K];
    for (size_t j = 0; j < options->top_k; j++)
        z[j] = output->ids[j] < 0 ? -INFINITY : output->z[output->ids[j]];
    softmax(z, options->top_k, p);
    for (size_t j = 0; j < options->top_k; j++) {
        const double of_kind[] = {[MOECL_WEIGHT_SCORE] = s[j],
                                  [MOECL_WEIGHT_SOFTMAX] = p[j],
                                  [MOECL_WEIGHT_SIGMOID] = sigmoid(z[j]),
                                  [MOECL_WEIGHT_ONE] = 1};
        output->weights[j] = z[j] == -INFINITY ? 0 : of_kind[options->router.weight];
    }
}

static void normalise(const moecl_router *router, double *weights, size_t slots, double *condition)
{
    double sum = 0, absolute = 0, divisor = 1;
    for (size_t j = 0; j < slots; j++) {
        sum += router->normalisation == MOECL_NORMALISATION_POWER ? pow(fabs(weights[j]), router->power) : weights[j];
        absolute += fabs(weights[j]);
    }
    if (router->normalisation == MOECL_NORMALISATION_SUM)
        divisor = sum + router->epsilon;
    if (router->normalisation == MOECL_NORMALISATION_LARGER_SUM)
        divisor = fmax(sum, router->epsilon);
    if (router->normalisation == MOECL_NORMALISATION_POWER)
        divisor = pow(sum, 1.0 / router->power);
    *condition = 1;
    if (router->normalisation == MOECL_NORMALISATION_SUM ||
        (router->normalisation == MOECL_NORMALISATION_LARGER_SUM && divisor == sum))
        *condition = sum == 0 ? 1 : fmax(1, absolute / fabs(divisor));
    for (size_t j = 0; j < slots; j++)
        weights[j] = weights[j] == 0 ? 0 : weights[j] / divisor;
}

static void scale(const moecl_router *router, const float *expert_scale, const int32_t *ids, double *weights,
                  size_t slots)
{
    for (size_t j = 0; j < slots; j++) {
        weights[j] *= router->scale == 0 ? 1 : router->scale;
        if (router->expert_scaled && ids[j] >= 0)
            weights[j] *= expert_scale[ids[j]];
    }
}

double model_finish(const moecl_router *router, const float *expert_scale, const int32_t *ids, double *weights,
                    size_t slots)
{
    double condition;
    normalise(router, weights, slots, &condition);
    scale(router, expert_scale, ids, weights, slots);
    return condition;
}

void model_route(const moecl_layer_options *options, const struct model_input *input, struct model_output *output)
{
    const moecl_router *router = &options->router;
    const size_t outputs = options->experts + router->zero_experts, k = options->top_k;
    const bool waits = router->capacity.kind != MOECL_CAPACITY_NONE && router->capacity.normalise_after;
    double s[MOECL_MAX_TOP_K], normalised[MOECL_MAX_TOP_K];
    output->margin = INFINITY;
    find_z(router, input, outputs, output->z);
    find_scores(router, input, outputs, output->z, output->scores);
    if (router->selection != MOECL_SELECTION_TABLE)
        choose(options, input, outputs, output);
    else
        for (size_t j = 0; j < k; j++)
            output->ids[j] = input->table_row ? input->table_row[j] : -1;
    choice_scores(options, outputs, output, s);
    limit_choices(options, s, output);
    weigh(options, s, output);
    memcpy(normalised, output->weights, sizeof(normalised));
    normalise(router, normalised, k, &output->condition);
    for (size_t j = 0; j < k; j++)
        if (!waits)
            output->weights[j] = normalised[j];
    for (size_t j = 1; j < k && input->noisy && router->random_second; j++) {
        const double u = model_uniform(router->seed, input->step, input->token, KIND_SECOND, (uint32_t)j);
        note(&output->margin, (u - 2 * normalised[j]) / output->condition, u);
        if (!(u < 2 * normalised[j])) {
            output->ids[j] = -1;
            output->weights[j] = 0;
        }
    }
    if (!waits)
        scale(router, input->expert_scale, output->ids, output->weights, k);
}

/* -------------------------------------------------------------------------------------------------- capacity -- */

size_t model_capacity(moecl_capacity_kind kind, double value, size_t tokens, size_t slots, size_t experts)
{
    const double t = (double)tokens, k = (double)slots;
    const double rows[] = {[MOECL_CAPACITY_NONE] = t * k,
                           [MOECL_CAPACITY_FIXED] = floor(value),
                           [MOECL_CAPACITY_FACTOR] = ceil(t * k / (double)experts * value),
                           [MOECL_CAPACITY_FRACTION] = ceil(t * value)};
    return (size_t)fmin(rows[kind], t * k);
}

/* Whether choice a stands before choice b in their expert's queue. */
static bool before(moecl_capacity_order order, const float *weights, size_t slots, size_t a, size_t b)
{
    if (order == MOECL_CAPACITY_ORDER_PROBABILITY && weights[a] != weights[b])
        return weights[a] > weights[b];
    if (order == MOECL_CAPACITY_ORDER_CHOICE && a % slots != b % slots)
        return a % slots < b % slots;
    return a < b;
}

void model_drop(moecl_capacity_order order, size_t rows, size_t tokens, size_t slots, size_t experts, int32_t *ids,
                float *weights)
{
    const size_t choices = tokens * slots;
    size_t *ahead = calloc(choices + 1, sizeof(*ahead));
    for (size_t a = 0; a < choices; a++)
        for (size_t b = 0; b < choices; b++)
            ahead[a] += ids[a] == ids[b] && a != b && before(order, weights, slots, b, a);
    for (size_t a = 0; a < choices; a++)
        if (ids[a] >= 0 && (size_t)ids[a] < experts && ahead[a] >= rows) {
            ids[a] = -1;
            weights[a] = 0;
        }
    free(ahead);
}
