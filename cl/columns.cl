/* SPDX-License-Identifier: Apache-2.0 */
/* columns.cl - 16 columns of one row of a product on their way out: biases, the expert's function, and the form of C;
 * stands behind activation.cl and in front of the variants that read weights in panels.
 *
 * Shapes: C [rows,N] in expert order. A vector holds 16 columns as panels have them: 16 columns of a plain product;
 * gated: 8 of gate and the 8 of up that belong to them. Columns past N are not stored. No kernels, so no launch.
 *
 * Forms of C:
 *   rows, activated rows, linear    the row's columns lie together
 *   activated, packed               the row's columns lie `stride` apart: a tile of the next product's A is
 *
 *                                   [k=0: r0 r1 .. | k=1: r0 r1 .. | ..]
 *
 * Deterministic: elementwise. */

/* What the next product's A is packed in: f32, or bf16. */
#ifndef PACKED_TYPE
#define PACKED_TYPE f32
#endif

/* The forms of C; enum moecl_form of runtime/experts/variant.h has the same. */
#define FORM_ROWS 0u             /* of one matrix, as it is         -> [rows, N] */
#define FORM_ACTIVATED_ROWS 1u   /* h of the expert's function      -> [rows, N] */
#define FORM_ACTIVATED_PACKED 2u /* h of the expert's function      -> packed */
#define FORM_LINEAR 3u           /* of two matrices, gate, then up  -> [rows, 2N] */

/* Stores up to `count` of 8 values. */
inline void store_row(__global float *to, uint count, float8 values)
{
    if (count >= 8) {
        vstore8(values, 0, to);
        return;
    }
    float value[8];
    vstore8(values, 0, value);
    _Pragma("unroll") for (uint c = 0; c < 8; c++) if (c < count) to[c] = value[c];
}

/* Stores up to `count` of 8 values of the next product's A, `stride` apart, from element `at` on. */
inline void store_packed(__global float *packed, ulong at, ulong stride, uint count, float8 values)
{
    __global ELEMENT(PACKED_TYPE) *to = (__global ELEMENT(PACKED_TYPE) *)packed + at;
    if (stride == 1 && count >= 8) {
        CALL(store8, PACKED_TYPE)(to, values);
        return;
    }
    float value[8];
    vstore8(values, 0, value);
    _Pragma("unroll") for (uint c = 0; c < 8; c++) if (c < count) CALL(store, PACKED_TYPE)(to + c * stride, value[c]);
}

/* Up to `count` of 8 values from `from`, zeros behind them. */
inline float8 load_some(__global const float *from, uint count)
{
    float value[8];
    _Pragma("unroll") for (uint c = 0; c < 8; c++) value[c] = c < count ? from[c] : 0.0f;
    return vload8(0, value);
}

/* The biases of 16 columns of a panel, as columns lie there; `biases` are the expert's. */
inline float16 load_biases(__global const float *biases, bool gated, uint width, uint column)
{
    const uint low = gated ? column / 2 : column, high = gated ? low : column + 8;
    float value[16];
    vstore8(load_some(biases + low, width - min(low, width)), 0, value);
    vstore8(load_some(biases + (gated ? width : 0) + high, width - min(high, width)), 1, value);
    return vload16(0, value);
}

/* Stores 16 columns of row `row` in the form asked for. `column` counts the panels' columns, gate and up alike; `width`
 * is N. Packed, the first of them lies at `packed`. Always inline: a call moves the vector through memory twice. */
inline __attribute__((always_inline)) void store_columns(__global float *output, uint form, uint width, uint column,
                                                         ulong row, ulong packed, ulong stride, float16 sum)
{
    float value[16]; /* and not sum.lo and sum.hi: Oclgrind takes an element of sum.hi for uninitialised */
    vstore16(sum, 0, value);
    float8 low = vload8(0, value), high = vload8(1, value);
#if UNGATED
    if (form != FORM_ROWS) {
        low = expert_activation(low);
        high = expert_activation(high);
    }
    const uint second = column + 8;
    if (form == FORM_ACTIVATED_PACKED) {
        store_packed(output, packed, stride, width - min(column, width), low);
        store_packed(output, packed + 8 * stride, stride, width - min(second, width), high);
        return;
    }
#else
    if (form == FORM_ACTIVATED_PACKED || form == FORM_ACTIVATED_ROWS || form == FORM_LINEAR) {
        const uint first = column / 2;
        const uint count = width - min(first, width);
        if (form == FORM_ACTIVATED_PACKED) {
            store_packed(output, packed, stride, count, expert_function(low, high));
        } else if (form == FORM_ACTIVATED_ROWS) {
            store_row(output + row * width + first, count, expert_function(low, high));
        } else {
            store_row(output + row * 2 * width + first, count, low);
            store_row(output + row * 2 * width + width + first, count, high);
        }
        return;
    }
#endif
    store_row(output + row * width + column, width - min(column, width), low);
    store_row(output + row * width + column + 8, width - min(column + 8, width), high);
}
