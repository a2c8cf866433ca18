/* SPDX-License-Identifier: Apache-2.0 */
/* activation.cl - what an expert makes of its gate and up products; put in front of the variants' sources.
 *
 *     h = act(g) * (u + UP_OFFSET)        ungated: h = act(g), g being the only product
 *
 * Shapes: FUNCTION_WIDTH columns of one row at a time, 8 or 16: FLOATS. No kernels, so no launch. A program is
 * specialised by
 *     ACTIVATION       SILU, GELU, GELU_TANH, RELU, RELU_SQUARED or IDENTITY
 *     CLAMP            NONE; BEFORE: g and u are clamped first; AFTER: act(g) and u are
 *     UNGATED          0 or 1
 *     ALPHA_BITS, LIMIT_BITS, UP_OFFSET_BITS       floats by their bits, which no locale changes
 *
 * Deterministic: elementwise. NaN stays NaN, so comparisons are written such that NaN fails them. */

#ifndef FUNCTION_WIDTH
#define FUNCTION_WIDTH 8
#endif
#define FLOATS PASTE_WIDTH(float, FUNCTION_WIDTH)
#define PASTE_WIDTH(type, width) JOIN(type, width)
#define JOIN(a, b) a##b

#ifndef ACTIVATION
#define ACTIVATION SILU
#endif
#ifndef CLAMP
#define CLAMP NONE
#endif
#ifndef UNGATED
#define UNGATED 0
#endif
#ifndef ALPHA_BITS
#define ALPHA_BITS 0x3f800000u
#endif
#ifndef LIMIT_BITS
#define LIMIT_BITS 0u
#endif
#ifndef UP_OFFSET_BITS
#define UP_OFFSET_BITS 0u
#endif

#define CLAMPS_NONE 0
#define CLAMPS_BEFORE 1
#define CLAMPS_AFTER 2
#define CLAMPS CALL(CLAMPS, CLAMP)

/* e^v to an ulp, for sums with 1: no less than e^-87, and infinity from 88 on. It has half the instructions of exp()
 * where kernels become the processor's code at once; what an expert makes of its products takes up to a sixth of the
 * time by AMX. v is power * ln 2, in two parts of which the first one's product is exact, and a rest of at most
 * ln 2 / 2, of which a polynomial of degree 6 is as near as floats are. */
#if defined(__x86_64__) || defined(__aarch64__)
#define INTS_OF PASTE_WIDTH(as_int, FUNCTION_WIDTH)
#define FLOATS_OF PASTE_WIDTH(as_float, FUNCTION_WIDTH)
inline FLOATS exponential(FLOATS v)
{
    v = v > -87.0f ? v : -87.0f;
    const FLOATS shifted = v * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: its last bits are the nearest integer */
    const FLOATS power = shifted - 12582912.0f, rest = v - power * 0.693359375f + power * 2.12194440e-4f;
    FLOATS sum = rest * 1.38144672e-3f + 8.36878084e-3f;
    sum = sum * rest + 4.16683927e-2f;
    sum = sum * rest + 1.66665196e-1f;
    sum = sum * rest + 0.49999994f;
    sum = (sum * rest + 1.0f) * rest + 1.0f;
    return v < 88.0f ? FLOATS_OF(INTS_OF(sum) + (INTS_OF(shifted) << 23)) : INFINITY;
}
#else
#define exponential exp
#endif

inline FLOATS activate_SILU(FLOATS g)
{
#if ALPHA_BITS == 0x3f800000u
    return g / (1.0f + exponential(-g));
#else
    return g / (1.0f + exponential(-as_float(ALPHA_BITS) * g));
#endif
}
inline FLOATS activate_GELU(FLOATS g)
{
    return 0.5f * g * (1.0f + erf(g * M_SQRT1_2_F));
}
/* (1 + tanh(v)) / 2 is 1 / (1 + exp(-2 v)); some tanh do not reach -1. */
inline FLOATS activate_GELU_TANH(FLOATS g)
{
    return g / (1.0f + exponential(-1.59576912f * (g + 0.044715f * g * g * g))); /* 2 sqrt(2 / pi) */
}
inline FLOATS activate_RELU(FLOATS g)
{
    return select(g, (FLOATS)(0.0f), g < 0.0f);
}
inline FLOATS activate_RELU_SQUARED(FLOATS g)
{
    const FLOATS positive = activate_RELU(g);
    return positive * positive;
}
inline FLOATS activate_IDENTITY(FLOATS g)
{
    return g;
}

inline FLOATS at_most(FLOATS value, float limit)
{
    return select(value, (FLOATS)(limit), value > limit);
}
inline FLOATS at_least(FLOATS value, float limit)
{
    return select(value, (FLOATS)(limit), value < limit);
}

/* act(g), clamped as CLAMP says. */
inline FLOATS expert_activation(FLOATS g)
{
#if CLAMPS == CLAMPS_BEFORE
    g = at_most(g, as_float(LIMIT_BITS));
#endif
    FLOATS h = CALL(activate, ACTIVATION)(g);
#if CLAMPS == CLAMPS_AFTER
    h = at_most(h, as_float(LIMIT_BITS));
#endif
    return h;
}

/* h of a gated expert. */
inline FLOATS expert_function(FLOATS g, FLOATS u)
{
#if CLAMPS != CLAMPS_NONE
    u = at_least(at_most(u, as_float(LIMIT_BITS)), -as_float(LIMIT_BITS));
#endif
#if UP_OFFSET_BITS != 0
    u += as_float(UP_OFFSET_BITS);
#endif
    return expert_activation(g) * u;
}
