/* SPDX-License-Identifier: Apache-2.0 */
/* expert_choice.cl - each expert takes its C best tokens (Zhou 2022).
 *
 *     scores [T,E] --keys--> keys [E,T] --select--> cuts [E] --write--> ids, weights [T,E] --weigh--> weights [T,E]
 *
 *     expert_choice_keys      a work-item (token, expert):     keys = score + selection bias, as integers that sort alike
 *     expert_choice_select    a group an expert:               the C-th largest key, and the last of the tokens with it
 *                                                              that is taken: a radix selection, 8 bits a round
 *     expert_choice_write     a work-item (expert, token):     ids and weights out of the two
 *     expert_choice_weigh     a work-item a token:             the weights of a token's choices, out of their logits
 *
 * Ties go to the lower token. NaN counts as -infinity, which is taken last. An expert is masked for a token where its
 * logit is -infinity: its key is, and its weight is 0. Without logits, the scores stand in for them.
 * Shapes: scores f32 [T, stride] and logits f32 [T, logits_stride], of which the first E columns count; keys u32 [E,T];
 * cuts u32 [E][2]; ids i32 [T,E], expert e's at e or -1; weights f32 [T,E].
 * Deterministic: atomics count integers, whose order does not matter; every sum of floats has one owner. */

#ifndef GROUP
#define GROUP 64
#endif
#define DIGITS 256 /* the values of 8 bits */

/* The launch code gives moecl.h's numbers. */
#ifndef WEIGHT_SOFTMAX
#define WEIGHT_SOFTMAX 1
#define WEIGHT_SIGMOID 2
#endif

/* -------------------------------------------------------------------------------------------------- selection -- */

/* Integers in the order of the floats: -infinity lowest, the two zeros alike. */
inline uint sortable(float value)
{
    const float key = isnan(value) ? -INFINITY : value == 0.0f ? 0.0f : value;
    const uint bits = as_uint(key);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__kernel void expert_choice_keys(uint tokens, uint experts, __global const float *scores_memory, ulong scores_offset,
                                 uint stride, __global const float *logits_memory, ulong logits_offset,
                                 uint logits_stride, uint biased, __global const float *bias_memory, ulong bias_offset,
                                 __global uint *keys_memory, ulong keys_offset)
{
    const uint token = get_global_id(0), e = get_global_id(1);
    if (token >= tokens || e >= experts)
        return;
    const float score = VIEW(const float, scores)[(ulong)token * stride + e];
    const bool masked = VIEW(const float, logits)[(ulong)token * logits_stride + e] == -INFINITY;
    const float key = biased ? score + VIEW(const float, bias)[e] : score;
    VIEW(uint, keys)[(ulong)e * tokens + token] = sortable(masked ? -INFINITY : key);
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

/* weights = the score; 0 where the expert is masked. */
__kernel void expert_choice_write(uint tokens, uint experts, __global const float *scores_memory, ulong scores_offset,
                                  uint stride, __global const float *logits_memory, ulong logits_offset,
                                  uint logits_stride, __global const uint *keys_memory, ulong keys_offset,
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
    const bool masked = VIEW(const float, logits)[(ulong)token * logits_stride + e] == -INFINITY;
    const ulong slot = (ulong)token * experts + e;
    VIEW(int, ids)[slot] = chosen ? (int)e : -1;
    VIEW(float, weights)[slot] = chosen && !masked ? score : 0.0f;
}

/* ---------------------------------------------------------------------------------------------------- weights -- */

/* The weights of a token's choices where they are not the scores: softmax over the selected z, sigmoid of z, or 1. A
 * masked expert's is 0. */
__kernel void expert_choice_weigh(uint tokens, uint slots, uint weight, __global const float *logits_memory,
                                  ulong logits_offset, uint logits_stride, __global const int *ids_memory,
                                  ulong ids_offset, __global float *weights_memory, ulong weights_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *logits = VIEW(const float, logits) + (ulong)token * logits_stride;
    __global const int *ids = VIEW(const int, ids) + (ulong)token * slots;
    __global float *weights = VIEW(float, weights) + (ulong)token * slots;
    float largest = -INFINITY, sum = 0.0f;
    for (uint j = 0; j < slots; j++)
        if (ids[j] >= 0)
            largest = fmax(largest, logits[ids[j]]);
    for (uint j = 0; j < slots; j++) {
        const float z = ids[j] >= 0 ? logits[ids[j]] : -INFINITY;
        float value = 0.0f;
        if (z != -INFINITY)
            value = weight == WEIGHT_SOFTMAX   ? exp(z - largest)
                    : weight == WEIGHT_SIGMOID ? 1.0f / (1.0f + exp(-z))
                                               : 1.0f;
        weights[j] = value;
        sum += value;
    }
    for (uint j = 0; j < slots && weight == WEIGHT_SOFTMAX; j++)
        weights[j] = weights[j] == 0.0f ? 0.0f : weights[j] / sum;
}
