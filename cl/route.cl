/* SPDX-License-Identifier: Apache-2.0 */
/* route.cl - from logits to expert ids and routing weights: everything that moecl.h's grammar of routers has between
 * the router's product and the capacity. Goes behind philox.cl and scores.cl.
 *
 *     route          logits -> z -> scores -> keys -> groups -> the k largest keys -> weights -> normalised, scaled
 *     route_scores   logits -> z -> scores, for selections that look at all tokens first
 *     route_finish   weights -> normalised, scaled, where that has to wait for the capacity
 *
 * Shapes: logits [T,stride], columns [ R router outputs | groups of a hierarchical router | .. | R of W_noise x' | .. ];
 * router bias, selection bias, expert scale [R]; table i32 [rows,k]; token ids i32 [T]; given keys [T,R]; ids i32 [T,k];
 * weights [T,k]. A token's row of scratch is [ R keys, where they are not z itself | groups' scores, where there are
 * any ].
 *
 * Launch: one work-item a token, in groups of any size. Deterministic: sums run in a fixed order, ties go to the lower
 * index; equal logits get equal scores, since every score comes out of score_lanes().
 *
 * What the grammar leaves open:
 *   - Bias, softcap and noise are of the R outputs; the groups' logits of a hierarchical router stay as they are.
 *   - The keys are z itself, or the logarithm of the score of a hierarchical router, where that gives the order of the
 *     scores: nothing is added to them and no group's are added up or become 0. Then scores too small for fp32 make no
 *     ties.
 *   - A logit of NaN gives a key of -infinity, and whatever is computed of it is NaN.
 *   - An expert of logit -infinity has the key -infinity, whatever its bias, and the score and the weight 0, whatever the
 *     source of the weight.
 *   - Losers of an INFINITE group mask and experts of key -infinity are all chosen last, the lower index first.
 *   - A weight of 0 stays 0, also when all of a token's are and their sum is 0.
 *   - The score of a SPARSEMIXER's choice, for top_p and threshold as for the weight, is the softmax of its round: 0 where
 *     the choice (a biased one) is among the experts left out. Its keys are z.
 *   - Given keys are taken as they are, without selection bias, but for experts of logit -infinity.
 *   - top_p, then the threshold, look at the choices in their order (a table's: its row's) and at scores, not at keys. The
 *     weights of the choices that stay are normalised, and softmax over the selected z is over those.
 *   - Random second choices look at weights that are normalised, but not scaled yet; nothing is normalised again, unless
 *     normalisation waits for the capacity. */

#define MAX_TOP_K 32

/* Enumerations of moecl.h. */
#define WEIGHT_SCORE 0u
#define WEIGHT_SOFTMAX 1u
#define WEIGHT_SIGMOID 2u
#define WEIGHT_ONE 3u
#define NORMALISATION_NONE 0u
#define NORMALISATION_SUM 1u
#define NORMALISATION_LARGER_SUM 2u
#define NORMALISATION_POWER 3u
#define GROUP_SCORE_LARGEST 0u
#define GROUP_SCORE_SUM_OF_TWO 1u

/* Where the keys come from; runtime/stages/route.c has the same. */
#define KEY_LOGIT 0u     /* z, in place */
#define KEY_SCORE 1u     /* the score, plus the selection bias if there is one */
#define KEY_LOG_SCORE 2u /* the logarithm of a hierarchical router's score */
#define KEY_GIVEN 3u     /* the caller's */
#define KEY_TABLE 4u     /* there are none: the ids are the table's */

/* ---------------------------------------------------------------------------------------------------- keys -- */

/* The keys that are not z itself. */
inline void make_keys(__global const float *z, const struct scores *scores, uint key, uint has,
                      __global const float *bias, __global const float *given, __global float *keys)
{
    for (uint g = 0; g < scores->spans; g++) {
        const uint begin = g * scores->span, end = begin + scores->span;
        struct softmax softmax;
        float offset = 0.0f;
        find_span(z, scores, g, &softmax);
        if (key == KEY_LOG_SCORE)
            offset = (scores->grouped ? z[scores->outputs + g] : 0.0f) - softmax.largest - log(softmax.divisor);
        /* The score is 0 in a group that is masked, which is still above a masked expert's. */
        const bool lowest = offset == -INFINITY;
        for (uint e = begin; e < end; e += LANES) {
            float8 lanes, s, more;
            load_lanes(z, e, end, &lanes);
            if (key == KEY_GIVEN)
                load_lanes(given, e, end, &s);
            else if (key == KEY_LOG_SCORE)
                s = lowest ? (float8)(-MAXFLOAT) : lanes + offset;
            else
                score_lanes(scores->score, lanes, &softmax, &s);
            if (key == KEY_SCORE && (has & HAS_SELECTION_BIAS)) {
                load_lanes(bias, e, end, &more);
                s += more;
            }
            store_lanes(lanes == (float8)(-INFINITY) ? (float8)(-INFINITY) : s, keys, e, end);
        }
    }
}

/* -------------------------------------------------------------------------------------------------- groups -- */

/* The groups that stay: those whose score is above the last one's that stays, or equal at a lower index. */
struct group_limit {
    __global const float *scores; /* NULL: every group stays */
    float score;
    int last;
};

/* NaN is the lowest score. */
inline float group_score(const struct group_limit *limit, uint g)
{
    const float score = limit->scores[g];
    return isnan(score) ? -INFINITY : score;
}

inline bool group_stays(const struct group_limit *limit, uint g)
{
    const float score = group_score(limit, g);
    return score > limit->score || (score == limit->score && (int)g <= limit->last);
}

inline void score_groups(__global const float *keys, uint groups, uint size, uint kind, __global float *scores)
{
    for (uint g = 0; g < groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (uint e = g * size; e < (g + 1) * size; e++) {
            const float key = keys[e];
            const float lower = key > first ? first : key;
            first = key > first ? key : first;
            second = lower > second ? lower : second;
        }
        scores[g] = kind == GROUP_SCORE_SUM_OF_TWO && size > 1 ? first + second : first;
    }
}

inline void choose_groups(uint groups, uint top_groups, struct group_limit *limit)
{
    limit->score = INFINITY;
    limit->last = -1;
    for (uint i = 0; i < top_groups; i++) {
        float best_score = -INFINITY;
        int best = -1;
        for (uint g = 0; g < groups; g++) {
            const float score = group_score(limit, g);
            const bool behind = score < limit->score || (score == limit->score && (int)g > limit->last);
            if (behind && (best < 0 || score > best_score)) {
                best_score = score;
                best = (int)g;
            }
        }
        limit->score = best_score;
        limit->last = best;
    }
}

/* ----------------------------------------------------------------------------------------------- selection -- */

/* Takes the keys begin to end - 1 into the k largest so far, in falling order, equal ones in rising order of index.
 * -infinity and NaN are not taken. */
inline void take_largest(__global const float *keys, uint begin, uint end, uint top_k, float *top_keys, int *ids)
{
    float least = top_keys[top_k - 1];
    for (uint e = begin; e < end; e += LANES) {
        float8 lanes;
        load_lanes(keys, e, end, &lanes);
        if (!any(lanes > (float8)(least)))
            continue;
        for (uint i = e; i < end && i < e + LANES; i++) {
            const float key = keys[i];
            if (!(key > least))
                continue;
            uint place = top_k - 1;
            for (; place > 0 && top_keys[place - 1] < key; place--) {
                top_keys[place] = top_keys[place - 1];
                ids[place] = ids[place - 1];
            }
            top_keys[place] = key;
            ids[place] = (int)i;
            least = top_keys[top_k - 1];
        }
    }
}

/* The k largest keys: those of the groups that stay, then, in order, the experts that have no key. */
inline void choose_experts(__global const float *keys, uint outputs, uint size, const struct group_limit *limit,
                           uint top_k, int *ids)
{
    float top_keys[MAX_TOP_K];
    for (uint j = 0; j < top_k; j++) {
        top_keys[j] = -INFINITY;
        ids[j] = -1;
    }
    if (limit->scores == 0) {
        take_largest(keys, 0, outputs, top_k, top_keys, ids);
    } else {
        for (uint g = 0; g < outputs / size; g++)
            if (group_stays(limit, g))
                take_largest(keys, g * size, (g + 1) * size, top_k, top_keys, ids);
    }
    uint taken = 0;
    while (taken < top_k && ids[taken] >= 0)
        taken++;
    for (uint e = 0; taken < top_k && e < outputs; e++)
        if (!(keys[e] > -INFINITY) || (limit->scores != 0 && !group_stays(limit, e / size)))
            ids[taken++] = (int)e;
}

/* ids = the row of the token's id. False where that is not of the table; there are no choices then. */
inline bool look_up(__global const int *table, uint rows, int token_id, uint outputs, uint top_k, int *ids)
{
    const bool known = token_id >= 0 && (uint)token_id < rows;
    for (uint j = 0; j < top_k; j++) {
        const int id = known ? table[(ulong)token_id * top_k + j] : -1;
        ids[j] = id >= 0 && (uint)id < outputs ? id : -1;
    }
    return known;
}

/* ------------------------------------------------------------------------------------------------- weights -- */

/* Scores of a sparsemixer's choices. In round j, over the experts not taken before, with m the largest of them: softmax
 * of those with (m - z) / max(|z|, m) <= limit. `left` is room for R values. */
inline void sparsemixer_scores(__global const float *z, uint outputs, float limit, uint top_k, const int *ids,
                               __global float *left, float *scores)
{
    float8 lanes;
    for (uint e = 0; e < outputs; e++)
        left[e] = z[e];
    for (uint j = 0; j < top_k; j++) {
        scores[j] = 0.0f;
        if (ids[j] < 0)
            continue;
        float8 most = (float8)(-INFINITY), sum = (float8)(0.0f);
        for (uint e = 0; e < outputs; e += LANES) {
            load_lanes(left, e, outputs, &lanes);
            most = lanes > most ? lanes : most;
        }
        const float m = largest_lane(most), own = left[ids[j]];
        left[ids[j]] = -INFINITY;
        if (own == -INFINITY)
            continue;
        for (uint e = 0; e < outputs; e += LANES) {
            load_lanes(left, e, outputs, &lanes);
            const float8 distance = (m - lanes) / fmax(fabs(lanes), m);
            sum += distance > (float8)(limit) ? (float8)(0.0f) : exp(lanes - m);
        }
        const float mine = (m - own) / fmax(fabs(own), m) > limit ? 0.0f : exp(own - m);
        scores[j] = mine / (mine + sum_of_lanes(sum));
    }
}

/* Takes back the choices beyond the top-p mass and below the threshold. */
inline void limit_choices(float top_p, float threshold, uint top_k, const float *scores, int *ids)
{
    float mass = 0.0f;
    for (uint j = 0; j < top_k; j++) {
        const bool enough = top_p > 0.0f && mass >= top_p, low = threshold > 0.0f && scores[j] < threshold;
        if (j > 0 && (enough || low))
            ids[j] = -1;
        mass += scores[j];
    }
}

/* `weights` are the scores before; of choices taken back and of masked experts they are 0. */
inline void weigh(__global const float *z, uint kind, uint top_k, const int *ids, float *weights)
{
    float largest = -INFINITY, sum = 0.0f;
    for (uint j = 0; kind == WEIGHT_SOFTMAX && j < top_k; j++)
        if (ids[j] >= 0)
            largest = fmax(largest, z[ids[j]]);
    for (uint j = 0; j < top_k; j++) {
        const float own = ids[j] >= 0 ? z[ids[j]] : -INFINITY;
        if (own == -INFINITY)
            weights[j] = 0.0f;
        else if (kind == WEIGHT_SOFTMAX)
            weights[j] = exp(own - largest);
        else if (kind == WEIGHT_SIGMOID)
            weights[j] = 1.0f / (1.0f + exp(-own));
        else if (kind == WEIGHT_ONE)
            weights[j] = 1.0f;
        sum += weights[j];
    }
    for (uint j = 0; kind == WEIGHT_SOFTMAX && sum != 0.0f && j < top_k; j++)
        weights[j] /= sum;
}

/* What normalisation adds up, of one weight, and what it divides by, of the sum. */
inline float normalisation_term(uint kind, float power, float weight)
{
    return kind == NORMALISATION_POWER ? pow(fabs(weight), power) : weight;
}

inline float normalisation_divisor(uint kind, float epsilon, float power, float sum)
{
    switch (kind) {
    case NORMALISATION_SUM:
        return sum + epsilon;
    case NORMALISATION_LARGER_SUM:
        return fmax(sum, epsilon);
    case NORMALISATION_POWER:
        return pow(sum, 1.0f / power);
    default:
        return 1.0f;
    }
}

inline float over(float weight, float divisor)
{
    return weight == 0.0f ? 0.0f : weight / divisor;
}

/* ------------------------------------------------------------------------------------------------- kernels -- */

__kernel void route(__global float *logits_memory, ulong logits_offset, uint stride, uint tokens, uint outputs,
                    uint top_k, uint has, uint score, uint key, float jitter, float softcap, uint noise_column,
                    __global const float *router_bias_memory, ulong router_bias_offset,
                    __global const float *selection_bias_memory, ulong selection_bias_offset,
                    __global const float *expert_scale_memory, ulong expert_scale_offset,
                    __global const float *given_memory, ulong given_offset, __global float *scratch_memory,
                    ulong scratch_offset, uint scratch_stride, __global const int *table_memory, ulong table_offset,
                    __global const int *token_ids_memory, ulong token_ids_offset, uint table_rows, uint groups,
                    uint top_groups, uint group_score_kind, float top_p, float threshold, uint weight,
                    uint normalisation, float epsilon, float power, float scale, ulong seed, ulong step,
                    uint first_token, __global int *ids_memory, ulong ids_offset, __global float *weights_memory,
                    ulong weights_offset, __global uint *flag_memory, ulong flag_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global float *z = VIEW(float, logits) + (ulong)token * stride;
    __global float *scratch = VIEW(float, scratch) + (ulong)token * scratch_stride;
    const bool hierarchical = score == SCORE_HIERARCHICAL;
    const uint size = groups > 1 ? outputs / groups : outputs;
    int ids[MAX_TOP_K];
    float weights[MAX_TOP_K];

    if (key != KEY_GIVEN) {
        const struct random_stream stream = random_stream(seed, step, first_token + token, RANDOM_NOISE);
        bool finite = prepare_logits(z, outputs, has, VIEW(const float, router_bias), softcap, z + noise_column, &stream);
        finite = all_finite(z, outputs + (hierarchical ? groups : 0)) && finite;
        if (!finite)
            atomic_or(VIEW(uint, flag), FLAG_NOT_FINITE);
    }
    struct scores scores;
    find_scores(z, score, outputs, groups, &scores);

    if (key == KEY_TABLE) {
        if (!look_up(VIEW(const int, table), table_rows, VIEW(const int, token_ids)[token], outputs, top_k, ids))
            atomic_or(VIEW(uint, flag), FLAG_BAD_EXPERT);
    } else {
        __global float *keys = key == KEY_LOGIT ? z : scratch;
        struct group_limit limit = {0, 0.0f, 0};
        if (key != KEY_LOGIT)
            make_keys(z, &scores, key, has, VIEW(const float, selection_bias),
                      VIEW(const float, given) + (ulong)token * outputs, keys);
        if (groups > 1 && top_groups < groups) {
            __global float *group_scores = key == KEY_LOGIT ? scratch : scratch + outputs;
            if (!hierarchical)
                score_groups(keys, groups, size, group_score_kind, group_scores);
            limit.scores = hierarchical ? z + outputs : group_scores;
            choose_groups(groups, top_groups, &limit);
            if (has & HAS_ZERO_MASK) {
                for (uint e = 0; e < outputs; e++)
                    if (keys[e] > -INFINITY && !group_stays(&limit, e / size))
                        keys[e] = 0.0f;
                limit.scores = 0;
            }
        }
        choose_experts(keys, outputs, size, &limit, top_k, ids);
    }

    if (score == SCORE_SPARSEMIXER) {
        sparsemixer_scores(z, outputs, 2.0f * jitter, top_k, ids, scratch, weights);
    } else {
        for (uint j = 0; j < top_k; j++)
            weights[j] = ids[j] >= 0 ? expert_score(z, &scores, (uint)ids[j]) : 0.0f;
    }
    limit_choices(top_p, threshold, top_k, weights, ids);
    weigh(z, weight, top_k, ids, weights);

    float sum = 0.0f;
    for (uint j = 0; j < top_k; j++)
        sum += normalisation_term(normalisation, power, weights[j]);
    const float divisor = normalisation_divisor(normalisation, epsilon, power, sum);
    const struct random_stream second = random_stream(seed, step, first_token + token, RANDOM_SECOND);
    for (uint j = 0; j < top_k; j++) {
        const float normalised = over(weights[j], divisor);
        if ((has & HAS_RANDOM_SECOND) && j > 0 && !(random_uniform(&second, j) < 2.0f * normalised)) {
            ids[j] = -1;
            weights[j] = 0.0f;
        } else if (has & HAS_TO_FINISH) {
            weights[j] = normalised * scale;
            if ((has & HAS_EXPERT_SCALE) && ids[j] >= 0)
                weights[j] *= VIEW(const float, expert_scale)[ids[j]];
        }
        VIEW(int, ids)[(ulong)token * top_k + j] = ids[j];
        VIEW(float, weights)[(ulong)token * top_k + j] = weights[j];
    }
}

__kernel void route_scores(__global float *logits_memory, ulong logits_offset, uint stride, uint tokens, uint outputs,
                           uint has, uint score, float softcap, uint noise_column,
                           __global const float *router_bias_memory, ulong router_bias_offset, uint groups, ulong seed,
                           ulong step, uint first_token, __global float *scores_memory, ulong scores_offset,
                           __global uint *flag_memory, ulong flag_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global float *z = VIEW(float, logits) + (ulong)token * stride;
    const struct random_stream stream = random_stream(seed, step, first_token + token, RANDOM_NOISE);
    bool finite = prepare_logits(z, outputs, has, VIEW(const float, router_bias), softcap, z + noise_column, &stream);
    finite = all_finite(z, outputs + (score == SCORE_HIERARCHICAL ? groups : 0)) && finite;
    if (!finite)
        atomic_or(VIEW(uint, flag), FLAG_NOT_FINITE);
    if (!(has & HAS_SCORES_OUT))
        return;

    __global float *to = VIEW(float, scores) + (ulong)token * outputs;
    struct scores scores;
    find_scores(z, score, outputs, groups, &scores);
    for (uint g = 0; g < scores.spans; g++) {
        const uint end = (g + 1) * scores.span;
        struct softmax softmax;
        find_span(z, &scores, g, &softmax);
        for (uint e = g * scores.span; e < end; e += LANES) {
            float8 lanes, s;
            load_lanes(z, e, end, &lanes);
            score_lanes(score, lanes, &softmax, &s);
            store_lanes(s, to, e, end);
        }
    }
}

__kernel void route_finish(uint tokens, uint slots, uint outputs, uint has, uint normalisation, float epsilon,
                           float power, float scale, __global const float *expert_scale_memory,
                           ulong expert_scale_offset, __global const int *ids_memory, ulong ids_offset,
                           __global float *weights_memory, ulong weights_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const int *ids = VIEW(const int, ids) + (ulong)token * slots;
    __global float *weights = VIEW(float, weights) + (ulong)token * slots;
    float sum = 0.0f;
    for (uint j = 0; j < slots; j++)
        sum += normalisation_term(normalisation, power, weights[j]);
    const float divisor = normalisation_divisor(normalisation, epsilon, power, sum);
    for (uint j = 0; j < slots; j++) {
        float weight = over(weights[j], divisor) * scale;
        if ((has & HAS_EXPERT_SCALE) && ids[j] >= 0 && (uint)ids[j] < outputs)
            weight *= VIEW(const float, expert_scale)[ids[j]];
        weights[j] = weight;
    }
}
