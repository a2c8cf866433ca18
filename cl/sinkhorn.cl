/* SPDX-License-Identifier: Apache-2.0 */
/* sinkhorn.cl - selection keys that are balanced over the tokens of a pass (Megatron-LM's formula; Sinkhorn 1967).
 *
 *     c[t][e] = exp(z[t][e] - max over the row t of z)      a masked expert (z = -infinity, or NaN) has 0
 *     d1[e]   = 1
 *     `iterations` times:
 *         d0[t] = 1 / (T * (sum over e of d1[e] * c[t][e] + EPSILON))
 *         d1[e] = 1 / (E * (sum over t of d0[t] * c[t][e] + EPSILON))          EPSILON = 1e-8
 *     key[t][e] = d1[e] * c[t][e] * d0[t]                    a masked expert has -infinity
 *
 * Megatron-LM takes exp(z) itself, which overflows; a factor of a row goes into d0[t] and out again, so that the row's
 * maximum is free to choose.
 *
 *     sinkhorn_exponentials    a work-item a token:             keys[t][.] = c[t][.]
 *     sinkhorn_rows            a work-item a token:             row_scales[t] = d0[t]
 *     sinkhorn_partial_sums    a work-item (expert, chunk):     partial_sums[chunk][e], over `length` tokens
 *     sinkhorn_columns         a work-item an expert:           column_scales[e] = d1[e]
 *     sinkhorn_keys            a work-item (expert, token):     keys[t][e]
 *
 * Shapes: logits f32 [T, stride], of which the first E columns count; keys f32 [T,E]; row_scales f32 [T]; column_scales
 * f32 [E]; partial_sums f32 [chunks][E].
 * Deterministic: a sum has one owner and runs over rising experts, tokens or chunks. */

#define EPSILON 1e-8f

inline bool is_masked(float logit)
{
    return isnan(logit) || logit == -INFINITY;
}

__kernel void sinkhorn_exponentials(uint tokens, uint experts, __global const float *logits_memory, ulong logits_offset,
                                    uint stride, __global float *keys_memory, ulong keys_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *logits = VIEW(const float, logits) + (ulong)token * stride;
    __global float *keys = VIEW(float, keys) + (ulong)token * experts;
    float largest = -INFINITY;
    for (uint e = 0; e < experts; e++)
        largest = fmax(largest, logits[e]);
    /* The largest is apart, since infinity - infinity is NaN. */
    for (uint e = 0; e < experts; e++)
        keys[e] = is_masked(logits[e]) ? 0.0f : logits[e] == largest ? 1.0f : exp(logits[e] - largest);
}

__kernel void sinkhorn_rows(uint tokens, uint experts, __global const float *keys_memory, ulong keys_offset,
                            __global const float *column_scales_memory, ulong column_scales_offset,
                            __global float *row_scales_memory, ulong row_scales_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *keys = VIEW(const float, keys) + (ulong)token * experts;
    __global const float *column_scales = VIEW(const float, column_scales);
    float sum = 0.0f;
    for (uint e = 0; e < experts; e++)
        sum += column_scales[e] * keys[e];
    VIEW(float, row_scales)[token] = 1.0f / ((float)tokens * (sum + EPSILON));
}

__kernel void sinkhorn_partial_sums(uint tokens, uint experts, uint length, __global const float *keys_memory,
                                    ulong keys_offset, __global const float *row_scales_memory, ulong row_scales_offset,
                                    __global float *partial_sums_memory, ulong partial_sums_offset)
{
    const uint e = get_global_id(0), chunk = get_global_id(1);
    const uint begin = chunk * length, end = min(begin + length, tokens);
    if (e >= experts || begin >= tokens)
        return;
    __global const float *keys = VIEW(const float, keys) + e;
    __global const float *row_scales = VIEW(const float, row_scales);
    float sum = 0.0f;
    for (uint token = begin; token < end; token++)
        sum += row_scales[token] * keys[(ulong)token * experts];
    VIEW(float, partial_sums)[(ulong)chunk * experts + e] = sum;
}

__kernel void sinkhorn_columns(uint experts, uint chunks, __global const float *partial_sums_memory,
                               ulong partial_sums_offset, __global float *column_scales_memory,
                               ulong column_scales_offset)
{
    const uint e = get_global_id(0);
    if (e >= experts)
        return;
    __global const float *partial_sums = VIEW(const float, partial_sums) + e;
    float sum = 0.0f;
    for (uint chunk = 0; chunk < chunks; chunk++)
        sum += partial_sums[(ulong)chunk * experts];
    VIEW(float, column_scales)[e] = 1.0f / ((float)experts * (sum + EPSILON));
}

__kernel void sinkhorn_keys(uint tokens, uint experts, __global const float *logits_memory, ulong logits_offset,
                            uint stride, __global const float *row_scales_memory, ulong row_scales_offset,
                            __global const float *column_scales_memory, ulong column_scales_offset,
                            __global float *keys_memory, ulong keys_offset)
{
    const uint e = get_global_id(0), token = get_global_id(1);
    if (e >= experts || token >= tokens)
        return;
    __global float *key = VIEW(float, keys) + (ulong)token * experts + e;
    const float scaled = VIEW(const float, column_scales)[e] * *key * VIEW(const float, row_scales)[token];
    *key = is_masked(VIEW(const float, logits)[(ulong)token * stride + e]) ? -INFINITY : scaled;
}
