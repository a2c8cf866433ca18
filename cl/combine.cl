/* SPDX-License-Identifier: Apache-2.0 */
/* combine.cl - the weighted sum over a token's experts, and the shared expert.
 *
 *     y[t,c] = c_0(t) * sum over j = 0..k-1 of weights[t,j] * term(t,j)  [ + bias[c] ]  [ + c_1(t) * shared[t,c] ]
 *
 *     term(t,j) = x[t,c]               a zero expert: ids[t,j] from E to outputs - 1
 *                 nothing              rows[t,j] is -1
 *                 z[rows[t,j], c]      else
 *     c(t)      = 1, scale             without a gate
 *                 1, scale * sigmoid(l_0)                of SIGMOID
 *                 softmax(l_0, l_1), the second * scale  of SOFTMAX
 *     l_i       = shared_logits[t * shared_stride + i]
 *
 * Shapes: z f32 [rows,H]; rows i32, weights f32, ids i32 [T,k]; x X_TYPE [T,H]; bias f32 [H]; shared f32 [T,H];
 * y OUTPUT_TYPE [T,H]. Without rows, row t*k + j is meant, or none where ids has less than 0; without weights, 1. Ids
 * that are no expert's, zero experts counted, give nothing and raise the bits `flag`.
 * Launch: work-item (b, t) makes ITEM_VECTORS * 16 columns of token t, from b times as many on.
 * Deterministic: the sum runs in the order of j; the bias comes after it, the shared expert last. */

#ifndef OUTPUT_TYPE
#define OUTPUT_TYPE f32
#endif
#ifndef X_TYPE
#define X_TYPE f32
#endif

#ifndef ITEM_VECTORS
#define ITEM_VECTORS 1
#endif

#define COLUMNS 16

/* moecl_shared_gate. */
#define GATE_SIGMOID 1u
#define GATE_SOFTMAX 2u

#define FOR_EACH_VECTOR(v) _Pragma("unroll") for (uint v = 0; v < ITEM_VECTORS; v++)

/* 16 columns of a row of `hidden` from `column` on, zeros past its end: never reads behind the row. */
inline float16 load_columns(__global const float *row, uint column, uint hidden)
{
    if (column + COLUMNS <= hidden)
        return vload16(0, row + column);
    float value[COLUMNS];
    for (uint c = 0; c < COLUMNS; c++)
        value[c] = column + c < hidden ? row[column + c] : 0.0f;
    return vload16(0, value);
}

/* The same of x. */
inline float16 load_x(__global const ELEMENT(X_TYPE) *row, uint column, uint hidden)
{
    float value[COLUMNS];
    for (uint c = 0; c < COLUMNS; c++)
        value[c] = column + c < hidden ? CALL(load, X_TYPE)(row + column + c) : 0.0f;
    return vload16(0, value);
}

/* Those that a row of y has from `column` on. */
inline void store_columns(__global ELEMENT(OUTPUT_TYPE) *row, uint column, uint hidden, float16 sum)
{
    if (column + COLUMNS <= hidden) {
        CALL(store16, OUTPUT_TYPE)(row + column, sum);
        return;
    }
    float value[COLUMNS];
    vstore16(sum, 0, value);
    for (uint c = 0; column + c < hidden; c++)
        CALL(store, OUTPUT_TYPE)(row + column + c, value[c]);
}

inline float sigmoid(float value)
{
    return 1.0f / (1.0f + exp(-value));
}

__kernel void combine(uint tokens, uint top_k, uint hidden, __global const float *z_memory, ulong z_offset,
                      uint has_rows, __global const uchar *rows_memory, ulong rows_offset, uint has_weights,
                      __global const float *weights_memory, ulong weights_offset, uint has_ids,
                      __global const uchar *ids_memory, ulong ids_offset, uint experts, uint outputs,
                      __global const uchar *x_memory, ulong x_offset, uint has_bias, __global const float *bias_memory,
                      ulong bias_offset, uint has_shared, __global const float *shared_memory, ulong shared_offset,
                      float shared_scale, uint gate, __global const float *shared_logits_memory,
                      ulong shared_logits_offset, uint shared_stride, __global uchar *y_memory, ulong y_offset,
                      __global uint *flag_memory, ulong flag_offset, uint flag)
{
    const uint first = get_global_id(0) * ITEM_VECTORS * COLUMNS, token = get_global_id(1);
    if (first >= hidden || token >= tokens)
        return;
    const ulong element = (ulong)token * hidden;
    __global const int *rows = VIEW(const int, rows) + (ulong)token * top_k;
    __global const float *weights = VIEW(const float, weights) + (ulong)token * top_k;
    __global const int *ids = VIEW(const int, ids) + (ulong)token * top_k;
    float16 sums[ITEM_VECTORS];
    FOR_EACH_VECTOR(v) sums[v] = (float16)(0.0f);
    bool bad = false;
    for (uint j = 0; j < top_k; j++) {
        const int id = has_ids ? ids[j] : -1;
        const long row = has_rows ? rows[j] : has_ids && id < 0 ? -1 : (long)token * top_k + j;
        const float weight = has_weights ? weights[j] : 1.0f;
        if (id >= 0 && (uint)id >= experts) {
            if ((uint)id < outputs)
                FOR_EACH_VECTOR(v)
                sums[v] += weight * load_x(VIEW(const ELEMENT(X_TYPE), x) + element, first + v * COLUMNS, hidden);
        } else if (row >= 0) {
            FOR_EACH_VECTOR(v)
            sums[v] += weight * load_columns(VIEW(const float, z) + row * hidden, first + v * COLUMNS, hidden);
        }
        bad |= id < -1 || (id >= 0 && (uint)id >= outputs);
    }
    if (bad && flag)
        atomic_or(VIEW(uint, flag), flag);
    __global const float *logits = VIEW(const float, shared_logits) + (ulong)token * shared_stride;
    float kept = 1.0f, scale = shared_scale;
    if (gate == GATE_SIGMOID) {
        scale *= sigmoid(logits[0]);
    } else if (gate == GATE_SOFTMAX) {
        kept = sigmoid(logits[0] - logits[1]);
        scale *= sigmoid(logits[1] - logits[0]);
    }
    FOR_EACH_VECTOR(v)
    {
        const uint column = first + v * COLUMNS;
        float16 sum = sums[v] * kept;
        if (has_bias)
            sum += load_columns(VIEW(const float, bias), column, hidden);
        if (has_shared)
            sum += scale * load_columns(VIEW(const float, shared) + element, column, hidden);
        store_columns(VIEW(ELEMENT(OUTPUT_TYPE), y) + element, column, hidden, sum);
    }
}
