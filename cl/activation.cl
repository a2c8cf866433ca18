/* SPDX-License-Identifier: Apache-2.0 */
/* activation.cl - what an expert makes of its gate and up products; put in front of the variants' sources.
 *
 *     h = act(g) * (u + UP_OFFSET)        ungated: h = act(g), g being the only product
 *
 * Shapes: 8 columns of one row at a time. No kernels, so no launch. A program is specialised by
 *     ACTIVATION       SILU, GELU, GELU_TANH, RELU, RELU_SQUARED or IDENTITY
 *     CLAMP            NONE; BEFORE: g and u are clamped first; AFTER: act(g) and u are
 *     UNGATED          0 or 1
 *     ALPHA_BITS, LIMIT_BITS, UP_OFFSET_BITS       floats by their bits, which no locale changes
 *
 * Deterministic: elementwise. NaN stays NaN, so comparisons are written such that NaN fails them. */

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

inline float8 activate_SILU(float8 g)
{
#if ALPHA_BITS == 0x3f800000u
    return g / (1.0f + exp(-g));
#else
    return g / (1.0f + exp(-as_float(ALPHA_BITS) * g));
#endif
}
inline float8 activate_GELU(float8 g)
{
    return 0.5f * g * (1.0f + erf(g * M_SQRT1_2_F));
}
/* (1 + tanh(v)) / 2 is 1 / (1 + exp(-2 v)); some tanh do not reach -1. */
inline float8 activate_GELU_TANH(float8 g)
{
    return g / (1.0f + exp(-1.59576912f * (g + 0.044715f * g * g * g))); /* 2 sqrt(2 / pi) */
}
inline float8 activate_RELU(float8 g)
{
    return select(g, (float8)(0.0f), g < 0.0f);
}
inline float8 activate_RELU_SQUARED(float8 g)
{
    const float8 positive = activate_RELU(g);
    return positive * positive;
}
inline float8 activate_IDENTITY(float8 g)
{
    return g;
}

inline float8 at_most(float8 value, float limit)
{
    return select(value, (float8)(limit), value > limit);
}
inline float8 at_least(float8 value, float limit)
{
    return select(value, (float8)(limit), value < limit);
}

/* act(g), clamped as CLAMP says. */
inline float8 expert_activation(float8 g)
{
#if CLAMPS == CLAMPS_BEFORE
    g = at_most(g, as_float(LIMIT_BITS));
#endif
    float8 h = CALL(activate, ACTIVATION)(g);
#if CLAMPS == CLAMPS_AFTER
    h = at_most(h, as_float(LIMIT_BITS));
#endif
    return h;
}

/* h of a gated expert. */
inline float8 expert_function(float8 g, float8 u)
{
#if CLAMPS != CLAMPS_NONE
    u = at_least(at_most(u, as_float(LIMIT_BITS)), -as_float(LIMIT_BITS));
#endif
#if UP_OFFSET_BITS != 0
    u += as_float(UP_OFFSET_BITS);
#endif
    return expert_activation(g) * u;
}
