/* SPDX-License-Identifier: Apache-2.0 */
/* expert_choice.cl - each expert takes its C best tokens (Zhou 2022).
 *
 *     logits [T,R] --score--> scores [T,E] --keys--> keys [E,T] --select--> cuts [E] --write--> ids, weights [T,E]
 *                                                                           --weigh--> weights [T,E]
 *
 *     expert_choice_score     a work-item a token:             scores = score(z); -infinity where the logit is
 *     expert_choice_keys      a work-item (token, expert):     keys = score + selection bias, as integers that sort alike
 *     expert_choice_select    a group an expert:               the C-th largest key, and the last of the tokens with it
 *                                                              that is taken: a radix selection, 8 bits a round
 *     expert_choice_write     a work-item (expert, token):     ids and weights out of the two
 *     expert_choice_weigh     a work-item a token:             the weights of a token's choices, out of all of them
 *
 * Ties go to the lower token. NaN counts as -infinity, which is taken last.
 * Shapes: logits f32 [T, stride], scores f32 [T, stride], of which the first E columns count; keys u32 [E,T]; cuts u32
 * [E][2]; ids i32 [T,E], expert e's at e or -1; weights f32 [T,E].
 * Deterministic: atomics count integers, whose order does not matter; every sum of floats has one owner. */

#ifndef GROUP
#define GROUP 64
#endif
#define DIGITS 256 /* the values of 8 bits */

/* The numbers of the choices are moecl.h's: the launch code gives them. */
#ifndef SCORE_SOFTMAX
#define SCORE_SOFTMAX 0
#define SCORE_SIGMOID 1
#define SCORE_SQRT_SOFTPLUS 2
#define SCORE_LOGIT 3
#define SCORE_HIERARCHICAL 5
#define WEIGHT_SCORE 0
#define WEIGHT_SOFTMAX 1
#define WEIGHT_SIGMOID 2
#define WEIGHT_ONE 3
#define NORMALISATION_NONE 0
#define NORMALISATION_SUM 1
#define NORMALISATION_LARGER_SUM 2
#define NORMALISATION_POWER 3
#endif

/* ---------------------------------------------------------------------------------------------------- scores -- */

inline float sigmoid(float value)
{
    return 1.0f / (1.0f + exp(-value));
}

/* sqrt(log(1 + exp(value))), also where exp(value) overflows or vanishes: below -16 it is exp(value / 2) to rounding. */
inline float sqrt_softplus(float value)
{
    return value < -16.0f ? exp(0.5f * value) : sqrt(fmax(value, 0.0f) + log1p(exp(-fabs(value))));
}

/* The softmax of `count` logits. */
inline void softmax(__global const float *logits, uint count, __global float *probabilities)
{
    float largest = -INFINITY, sum = 0.0f;
    for (uint e = 0; e < count; e++)
        largest = fmax(largest, logits[e]);
    for (uint e = 0; e < count; e++) {
        const float value = logits[e] == -INFINITY ? 0.0f : exp(logits[e] - largest);
        probabilities[e] = value;
        sum += value;
    }
    for (uint e = 0; e < count; e++)
        probabilities[e] = logits[e] == -INFINITY ? 0.0f : probabilities[e] / sum;
}

/* The logits of the groups come behind those of the experts. */
inline void hierarchical(__global const float *logits, uint experts, uint groups, __global float *probabilities)
{
    __global const float *group_logits = logits + experts;
    const uint size = experts / groups;
    float largest = -INFINITY, sum = 0.0f;
    for (uint g = 0; g < groups; g++)
        largest = fmax(largest, group_logits[g]);
    for (uint g = 0; g < groups; g++)
        sum += group_logits[g] == -INFINITY ? 0.0f : exp(group_logits[g] - largest);
    for (uint g = 0; g < groups; g++) {
        const float probability = group_logits[g] == -INFINITY ? 0.0f : exp(group_logits[g] - largest) / sum;
        softmax(logits + g * size, size, probabilities + g * size);
        for (uint e = 0; e < size; e++)
            probabilities[g * size + e] *= probability;
    }
}

__kernel void expert_choice_score(uint tokens, uint experts, uint score, uint groups,
                                  __global const float *logits_memory, ulong logits_offset, uint logits_stride,
                                  __global float *scores_memory, ulong scores_offset, __global uint *flag_memory,
                                  ulong flag_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *logits = VIEW(const float, logits) + (ulong)token * logits_stride;
    __global float *scores = VIEW(float, scores) + (ulong)token * experts;
    const uint columns = experts + (score == SCORE_HIERARCHICAL ? groups : 0);
    bool finite = true;
    for (uint e = 0; e < columns; e++)
        finite = finite && (is_finite(logits[e]) || logits[e] == -INFINITY);
    if (!finite)
        atomic_or(VIEW(uint, flag), FLAG_NOT_FINITE);

    if (score == SCORE_SOFTMAX)
        softmax(logits, experts, scores);
    else if (score == SCORE_HIERARCHICAL)
        hierarchical(logits, experts, groups, scores);
    for (uint e = 0; e < experts; e++) {
        const float z = logits[e];
        if (z == -INFINITY)
            scores[e] = -INFINITY;
        else if (score == SCORE_SIGMOID)
            scores[e] = sigmoid(z);
        else if (score == SCORE_SQRT_SOFTPLUS)
            scores[e] = sqrt_softplus(z);
        else if (score == SCORE_LOGIT)
            scores[e] = z;
    }
}

/* -------------------------------------------------------------------------------------------------- selection -- */

/* Integers in the order of the floats: -infinity lowest, the two zeros alike. */
inline uint sortable(float value)
{
    const float key = isnan(value) ? -INFINITY : value == 0.0f ? 0.0f : value;
    const uint bits = as_uint(key);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__kernel void expert_choice_keys(uint tokens, uint experts, __global const float *scores_memory, ulong scores_offset,
                                 uint stride, uint biased, __global const float *bias_memory, ulong bias_offset,
                                 __global uint *keys_memory, ulong keys_offset)
{
    const uint token = get_global_id(0), e = get_global_id(1);
    if (token >= tokens || e >= experts)
        return;
    const float score = VIEW(const float, scores)[(ulong)token * stride + e];
    VIEW(uint, keys)[(ulong)e * tokens + token] = sortable(biased ? score + VIEW(const float, bias)[e] : score);
}

/* cuts[e] = (key, last): expert e takes the tokens of larger keys, and of those with this key the tokens up to `last`.
 * `capacity` is 1 to T. */
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void expert_choice_select(
    uint tokens, uint capacity, __global const uint *keys_memory, ulong keys_offset, __global uint *cuts_memory,
    ulong cuts_offset)
{
    __local uint histogram[DIGITS];
    __local uint counts[GROUP];
    __local uint prefix, wanted; /* the upper digits of the C-th largest key; its place among the keys with them */
    const uint e = get_group_id(0), item = get_local_id(0);
    __global const uint *keys = VIEW(const uint, keys) + (ulong)e * tokens;

    if (item == 0) {
        prefix = 0;
        wanted = capacity;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (uint digit = item; digit < DIGITS; digit += GROUP)
            histogram[digit] = 0;
        barrier(CLK_LOCAL_MEM_FENCE);
        const uint upper = shift == 24 ? 0u : 0xffffffffu << (shift + 8), found = prefix;
        for (uint token = item; token < tokens; token += GROUP)
            if ((keys[token] & upper) == found)
                atomic_inc(&histogram[(keys[token] >> shift) & 0xffu]);
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item == 0) {
            uint digit = DIGITS - 1;
            while (histogram[digit] < wanted)
                wanted -= histogram[digit--];
            prefix |= digit << shift;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    /* The wanted-th of the tokens with this key: each item counts in a run of tokens. */
    const uint key = prefix, length = (tokens + GROUP - 1) / GROUP;
    const uint begin = min(item * length, tokens), end = min(begin + length, tokens);
    uint count = 0;
    for (uint token = begin; token < end; token++)
        count += keys[token] == key;
    counts[item] = count;
    barrier(CLK_LOCAL_MEM_FENCE);
    uint before = 0;
    for (uint i = 0; i < item; i++)
        before += counts[i];
    if (before < wanted && wanted <= before + count) {
        uint token = begin;
        for (uint left = wanted - before; left > 0; token++)
            left -= keys[token] == key;
        VIEW(uint, cuts)[2 * e] = key;
        VIEW(uint, cuts)[2 * e + 1] = token - 1;
    }
}

/* weights = the score; 0 where it is -infinity. */
__kernel void expert_choice_write(uint tokens, uint experts, __global const float *scores_memory, ulong scores_offset,
                                  uint stride, __global const uint *keys_memory, ulong keys_offset,
                                  __global const uint *cuts_memory, ulong cuts_offset, __global int *ids_memory,
                                  ulong ids_offset, __global float *weights_memory, ulong weights_offset)
{
    const uint e = get_global_id(0), token = get_global_id(1);
    if (e >= experts || token >= tokens)
        return;
    const uint key = VIEW(const uint, keys)[(ulong)e * tokens + token];
    const uint cut = VIEW(const uint, cuts)[2 * e], last = VIEW(const uint, cuts)[2 * e + 1];
    const bool chosen = key > cut || (key == cut && token <= last);
    const float score = VIEW(const float, scores)[(ulong)token * stride + e];
    const ulong slot = (ulong)token * experts + e;
    VIEW(int, ids)[slot] = chosen ? (int)e : -1;
    VIEW(float, weights)[slot] = chosen && score != -INFINITY ? score : 0.0f;
}

/* ---------------------------------------------------------------------------------------------------- weights -- */

/* The sum that a normalisation divides by. */
inline float divisor(uint normalisation, float epsilon, float power, __global const int *ids,
                     __global const float *weights, uint slots)
{
    float sum = 0.0f;
    for (uint j = 0; j < slots; j++)
        if (ids[j] >= 0)
            sum += normalisation == NORMALISATION_POWER ? pow(fabs(weights[j]), power) : weights[j];
    if (normalisation == NORMALISATION_SUM)
        return sum + epsilon;
    if (normalisation == NORMALISATION_LARGER_SUM)
        return fmax(sum, epsilon);
    return pow(sum, 1.0f / power);
}

/* A token's weights come in as scores; a weight of 0 (of a masked expert) stays one. */
__kernel void expert_choice_weigh(uint tokens, uint slots, uint weight, uint normalisation, float epsilon, float power,
                                  float scale, __global const float *logits_memory, ulong logits_offset,
                                  uint logits_stride, uint expert_scaled, __global const float *expert_scale_memory,
                                  ulong expert_scale_offset, __global const int *ids_memory, ulong ids_offset,
                                  __global float *weights_memory, ulong weights_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *logits = VIEW(const float, logits) + (ulong)token * logits_stride;
    __global const int *ids = VIEW(const int, ids) + (ulong)token * slots;
    __global float *weights = VIEW(float, weights) + (ulong)token * slots;

    if (weight != WEIGHT_SCORE) {
        float largest = -INFINITY, sum = 0.0f;
        for (uint j = 0; j < slots; j++)
            if (ids[j] >= 0)
                largest = fmax(largest, logits[ids[j]]);
        for (uint j = 0; j < slots; j++) {
            const float z = ids[j] >= 0 ? logits[ids[j]] : -INFINITY;
            float value = 0.0f;
            if (z != -INFINITY)
                value = weight == WEIGHT_SOFTMAX ? exp(z - largest) : weight == WEIGHT_SIGMOID ? sigmoid(z) : 1.0f;
            weights[j] = value;
            sum += value;
        }
        for (uint j = 0; j < slots && weight == WEIGHT_SOFTMAX; j++)
            weights[j] = weights[j] == 0.0f ? 0.0f : weights[j] / sum;
    }
    float divided_by = 1.0f;
    if (normalisation != NORMALISATION_NONE)
        divided_by = divisor(normalisation, epsilon, power, ids, weights, slots);
    for (uint j = 0; j < slots; j++) {
        if (ids[j] < 0 || weights[j] == 0.0f)
            continue;
        const float value = weights[j] / divided_by * scale;
        weights[j] = expert_scaled ? value * VIEW(const float, expert_scale)[ids[j]] : value;
    }
}
