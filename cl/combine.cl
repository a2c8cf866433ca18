/* SPDX-License-Identifier: Apache-2.0 */
/* combine.cl - the weighted sum over a token's experts, and the shared expert.
 *
 *     y[t,c] = sum over j = 0..k-1 of weights[t,j] * z[rows[t,j], c]  [ + s(t) * shared[t,c] ]
 *
 * with s(t) = sigmoid(shared_logits[t * shared_stride]), or 1 where shared_stride is 0. A row of -1 gives nothing.
 *
 * Shapes: z f32 [rows,H]; rows i32 [T,k]; weights f32 [T,k]; shared f32 [T,H]; y OUTPUT_TYPE [T,H].
 * Launch: work-item (b, t) makes the columns 16 b to 16 b + 15 of token t.
 * Deterministic: the sum runs in the order of j, the shared expert comes last. */

#ifndef OUTPUT_TYPE
#define OUTPUT_TYPE f32
#endif

#define COLUMNS 16

/* Up to 16 columns from `from`, zeros past `count`: never reads behind the row. */
inline float16 load_columns(__global const float *from, uint count)
{
    if (count >= COLUMNS)
        return vload16(0, from);
    float value[COLUMNS];
    for (uint c = 0; c < COLUMNS; c++)
        value[c] = c < count ? from[c] : 0.0f;
    return vload16(0, value);
}

__kernel void combine(uint tokens, uint top_k, uint hidden, __global const float *z_memory, ulong z_offset,
                      __global const int *rows_memory, ulong rows_offset, __global const float *weights_memory,
                      ulong weights_offset, uint has_shared, __global const float *shared_memory, ulong shared_offset,
                      __global const float *shared_logits_memory, ulong shared_logits_offset, uint shared_stride,
                      __global uchar *y_memory, ulong y_offset)
{
    const uint column = get_global_id(0) * COLUMNS, token = get_global_id(1);
    if (column >= hidden || token >= tokens)
        return;
    const uint count = min((uint)COLUMNS, hidden - column);
    __global const float *z = VIEW(const float, z) + column;
    __global const int *rows = VIEW(const int, rows) + (ulong)token * top_k;
    __global const float *weights = VIEW(const float, weights) + (ulong)token * top_k;
    float16 sum = (float16)(0.0f);
    for (uint j = 0; j < top_k; j++)
        if (rows[j] >= 0)
            sum += weights[j] * load_columns(z + (ulong)rows[j] * hidden, count);
    if (has_shared) {
        float scale = 1.0f;
        if (shared_stride)
            scale = 1.0f / (1.0f + exp(-VIEW(const float, shared_logits)[(ulong)token * shared_stride]));
        sum += scale * load_columns(VIEW(const float, shared) + (ulong)token * hidden + column, count);
    }
    float value[COLUMNS];
    vstore16(sum, 0, value);
    __global ELEMENT(OUTPUT_TYPE) *y = VIEW(ELEMENT(OUTPUT_TYPE), y) + (ulong)token * hidden + column;
    for (uint c = 0; c < count; c++)
        CALL(store, OUTPUT_TYPE)(y + c, value[c]);
}
