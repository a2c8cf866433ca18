/* SPDX-License-Identifier: Apache-2.0 */
/* clblast.cl - what surrounds CLBlast's GEMMs in the variant "clblast".
 *
 * Shapes and layouts:
 *   rows       expert e has the rows offsets[e] to offsets[e+1]-1. Not padded: row r of a matrix [rows, columns] is row
 *              r. Padded: expert e's i-th row is row e * capacity + i, rows past its last are zero
 *   product    what CLBlast wrote: f32 [rows, N]; gated: f32 [rows, 2N], a row gate's N columns, then up's
 *   biases     f32 [E][N], gated [E][2N]: gate's, then up's
 *   output     f32 [rows, N], or [rows, 2N] for the linear form; not padded, but for the input of a next product
 *
 * Launch: work-item (b, i, e) does 16 columns from 16 b on of the i-th row of expert e (of gate and up alike, where
 * there are two); i runs to the longest expert's
 * rows, or to the capacity. Deterministic: every element has one writer. */

#ifndef WEIGHT_TYPE
#define WEIGHT_TYPE f32
#endif
#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif

#define COLUMNS 16

/* The forms of an output; runtime/experts/variant.h has the same. */
#define FORM_ROWS 0u
#define FORM_ACTIVATED_ROWS 1u
#define FORM_ACTIVATED_PACKED 2u
#define FORM_LINEAR 3u

/* x's rows in expert order: row r is x's row assignments[r] / divisor, or r where divisor is 0; where `weighted`, times
 * row_weights[assignments[r]], or row_weights[r]. NaN or infinity in x raises the bits `flag`. */
__kernel void clblast_gather(__global const uchar *x_memory, ulong x_offset, __global const uint *assignments_memory,
                             ulong assignments_offset, uint divisor, uint weighted,
                             __global const uchar *row_weights_memory, ulong row_weights_offset,
                             __global const uint *offsets_memory, ulong offsets_offset, uint capacity, uint depth,
                             __global float *packed_memory, ulong packed_offset, __global uint *flag_memory, ulong flag_offset, uint flag)
{
    __global const uint *offsets = VIEW(const uint, offsets);
    const uint begin = get_global_id(0) * COLUMNS, end = min(begin + COLUMNS, depth);
    const uint i = get_global_id(1), e = get_global_id(2);
    const uint row = offsets[e] + i;
    const bool present = row < offsets[e + 1];
    if (!present && !capacity)
        return;
    __global float *packed = VIEW(float, packed) + (ulong)(capacity ? e * capacity + i : row) * depth;
    if (!present) {
        for (uint k = begin; k < end; k++)
            packed[k] = 0.0f;
        return;
    }
    const uint assignment = divisor ? VIEW(const uint, assignments)[row] : row;
    const uint source = divisor ? assignment / divisor : assignment;
    const float weight = weighted ? VIEW(const float, row_weights)[assignment] : 1.0f;
    __global const ELEMENT(ACTIVATION_TYPE) *x = VIEW(const ELEMENT(ACTIVATION_TYPE), x) + (ulong)source * depth;
    bool finite = true;
    for (uint k = begin; k < end; k++) {
        const float value = CALL(load, ACTIVATION_TYPE)(x + k);
        finite = finite && is_finite(value);
        packed[k] = value * weight;
    }
    if (!finite && flag)
        atomic_or(VIEW(uint, flag), flag);
}

/* Weights of one expert to f32, which is all that CLBlast multiplies in single precision. */
__kernel void clblast_convert(__global const uchar *weights_memory, ulong weights_offset, ulong count,
                              __global float *converted_memory, ulong converted_offset)
{
    __global const ELEMENT(WEIGHT_TYPE) *weights = VIEW(const ELEMENT(WEIGHT_TYPE), weights);
    __global float *converted = VIEW(float, converted);
    const ulong begin = (ulong)get_global_id(0) * COLUMNS;
    if (begin + COLUMNS <= count)
        vstore16(CALL(load16, WEIGHT_TYPE)(weights + begin), 0, converted + begin);
    else
        for (ulong i = begin; i < count; i++)
            converted[i] = CALL(load, WEIGHT_TYPE)(weights + i);
}

/* Up to 8 columns of a product with their biases, zeros past `count`. */
inline float8 load_columns(__global const float *product, __global const float *biases, bool biased, uint count)
{
    float value[8];
    for (uint c = 0; c < 8; c++)
        value[c] = c >= count ? 0.0f : biased ? product[c] + biases[c] : product[c];
    return vload8(0, value);
}

inline void store_columns(__global float *to, uint count, float8 values)
{
    float value[8];
    vstore8(values, 0, value);
    for (uint c = 0; c < 8; c++)
        if (c < count)
            to[c] = value[c];
}

/* From CLBlast's product to the form asked for. `width` is N. */
__kernel void clblast_finish(__global const float *product_memory, ulong product_offset,
                             __global const uint *offsets_memory, ulong offsets_offset, uint capacity, uint width,
                             uint biased, __global const float *biases_memory, ulong biases_offset, uint form,
                             __global float *output_memory, ulong output_offset)
{
    __global const uint *offsets = VIEW(const uint, offsets);
    const uint i = get_global_id(1), e = get_global_id(2);
    const uint row = offsets[e] + i;
    const bool present = row < offsets[e + 1];
    if (!present && !(capacity && form == FORM_ACTIVATED_PACKED))
        return;
    const bool gated = form != FORM_ROWS && !UNGATED;
    const uint columns = gated ? 2 * width : width;
    const ulong place = capacity ? e * capacity + i : row;
    __global const float *product = VIEW(const float, product) + place * columns;
    __global const float *biases = VIEW(const float, biases) + (ulong)e * columns;
    __global float *output = VIEW(float, output) + (form == FORM_ACTIVATED_PACKED ? place : (ulong)row) *
                                                       (form == FORM_LINEAR ? columns : width);
    const uint begin = get_global_id(0) * COLUMNS, end = min(begin + COLUMNS, width);
    for (uint c = begin; c < end; c += 8) {
        const uint count = min(end - c, 8u);
        float8 gate = load_columns(product + c, biases + c, biased, count);
#if UNGATED
        if (form != FORM_ROWS)
            gate = expert_activation(gate);
#else
        if (gated) {
            const float8 up = load_columns(product + width + c, biases + width + c, biased, count);
            if (form == FORM_LINEAR)
                store_columns(output + width + c, count, up);
            else
                gate = expert_function(gate, up);
        }
#endif
        store_columns(output + c, count, gate);
    }
}
