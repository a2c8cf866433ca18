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
 * Launch: work-item (b, t) makes the columns 16 b to 16 b + 15 of token t.
 * Deterministic: the sum runs in the order of j; the bias comes after it, the shared expert last. */

#ifndef OUTPUT_TYPE
#define OUTPUT_TYPE f32
#endif
#ifndef X_TYPE
#define X_TYPE f32
#endif

#define COLUMNS 16

/* moecl_shared_gate. */
#define GATE_SIGMOID 1u
#define GATE_SOFTMAX 2u

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

/* The same of x. */
inline float16 load_x(__global const ELEMENT(X_TYPE) *from, uint count)
{
    float value[COLUMNS];
    for (uint c = 0; c < COLUMNS; c++)
        value[c] = c < count ? CALL(load, X_TYPE)(from + c) : 0.0f;
    return vload16(0, value);
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
    const uint column = get_global_id(0) * COLUMNS, token = get_global_id(1);
    if (column >= hidden || token >= tokens)
        return;
    const uint count = min((uint)COLUMNS, hidden - column);
    const ulong element = (ulong)token * hidden + column;
    __global const float *z = VIEW(const float, z) + column;
    __global const int *rows = VIEW(const int, rows) + (ulong)token * top_k;
    __global const float *weights = VIEW(const float, weights) + (ulong)token * top_k;
    __global const int *ids = VIEW(const int, ids) + (ulong)token * top_k;
    float16 sum = (float16)(0.0f);
    bool bad = false;
    for (uint j = 0; j < top_k; j++) {
        const int id = has_ids ? ids[j] : -1;
        const long row = has_rows ? rows[j] : has_ids && id < 0 ? -1 : (long)token * top_k + j;
        const float weight = has_weights ? weights[j] : 1.0f;
        if (id >= 0 && (uint)id >= experts) {
            if ((uint)id < outputs)
                sum += weight * load_x(VIEW(const ELEMENT(X_TYPE), x) + element, count);
        } else if (row >= 0) {
            sum += weight * load_columns(z + row * hidden, count);
        }
        bad |= id < -1 || (id >= 0 && (uint)id >= outputs);
    }
    if (bad && flag)
        atomic_or(VIEW(uint, flag), flag);
    __global const float *logits = VIEW(const float, shared_logits) + (ulong)token * shared_stride;
    float scale = shared_scale;
    if (gate == GATE_SIGMOID) {
        scale *= sigmoid(logits[0]);
    } else if (gate == GATE_SOFTMAX) {
        sum *= sigmoid(logits[0] - logits[1]);
        scale *= sigmoid(logits[1] - logits[0]);
    }
    if (has_bias)
        sum += load_columns(VIEW(const float, bias) + column, count);
    if (has_shared)
        sum += scale * load_columns(VIEW(const float, shared) + element, count);
    __global ELEMENT(OUTPUT_TYPE) *y = VIEW(ELEMENT(OUTPUT_TYPE), y) + element;
    if (count == COLUMNS) {
        CALL(store16, OUTPUT_TYPE)(y, sum);
        return;
    }
    float value[COLUMNS];
    vstore16(sum, 0, value);
    for (uint c = 0; c < count; c++)
        CALL(store, OUTPUT_TYPE)(y + c, value[c]);
}
