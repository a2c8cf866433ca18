/* SPDX-License-Identifier: Apache-2.0 */
/* function.c - activations, clamps, and how gate and up make h. */
#include "function.h"

#include <math.h>

#include "parts.h"

static double activate(const moecl_expert_function *function, double g)
{
    const double alpha = function->alpha != 0 ? (double)function->alpha : 1;
    switch (function->activation) {
    case MOECL_ACTIVATION_SILU:
        return g * moecl_reference_sigmoid(alpha * g);
    case MOECL_ACTIVATION_GELU:
        return g * (1 + erf(g * 0.70710678118654752440)) / 2;
    case MOECL_ACTIVATION_GELU_TANH:
        return g * (1 + tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g))) / 2;
    case MOECL_ACTIVATION_RELU:
        return g < 0 ? 0 : g;
    case MOECL_ACTIVATION_RELU_SQUARED:
        return g < 0 ? 0 : g * g;
    case MOECL_ACTIVATION_IDENTITY:
        break;
    }
    return g;
}

/* NaN stays NaN. */
static double at_most(double value, double limit)
{
    return value > limit ? limit : value;
}

static double within(double value, double limit)
{
    return value < -limit ? -limit : at_most(value, limit);
}

double moecl_reference_function(const moecl_expert_function *function, double gate, double up)
{
    const double limit = (double)function->limit;
    if (function->clamp == MOECL_CLAMP_BEFORE)
        gate = at_most(gate, limit);
    double activated = activate(function, gate);
    if (function->clamp == MOECL_CLAMP_AFTER)
        activated = at_most(activated, limit);
    if (function->ungated)
        return activated;
    if (function->clamp != MOECL_CLAMP_NONE)
        up = within(up, limit);
    return activated * (up + (double)function->up_offset);
}

/* A few roundings of h, and of what exp is given; the two GELUs multiply g by 1 + something near -1, whose rounding is
 * one of g; exp overflows where h is as good as zero. */
static double rounding(const moecl_expert_function *function, double gate, double up, double h)
{
    const bool cancels =
        function->activation == MOECL_ACTIVATION_GELU || function->activation == MOECL_ACTIVATION_GELU_TANH;
    const double factor = function->ungated ? 1 : fabs(up) + fabs((double)function->up_offset);
    const double argument = function->activation == MOECL_ACTIVATION_SILU ? fabs((double)function->alpha * gate) : 0;
    return 0x1p-24 * ((16 + argument) * fabs(h) + (cancels ? 16 * fabs(gate) * factor : 0)) + 0x1p-100 * (1 + factor);
}

double moecl_bound_function(const moecl_expert_function *function, double gate, double gate_error, double up,
                            double up_error)
{
    const double h = moecl_reference_function(function, gate, up);
    double error = 0;
    for (int side = -1; side <= 1; side += 2) {
        double moved = moecl_reference_function(function, gate + side * gate_error, up) - h;
        error = fmax(error, fabs(moved));
    }
    double moved_up = 0;
    for (int side = -1; !function->ungated && side <= 1; side += 2)
        moved_up = fmax(moved_up, fabs(moecl_reference_function(function, gate, up + side * up_error) - h));
    return error + moved_up + rounding(function, gate, up, h);
}
