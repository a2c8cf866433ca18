/* SPDX-License-Identifier: Apache-2.0 */
/* input.cl - what a router or the experts read instead of x: its norm, or x jittered.
 *
 *     norm[t,h]  = x[t,h] / sqrt(mean over h of x[t,h]^2 + epsilon) * scale [* vector[h]]       where NORMALISED
 *     input[t,h] = norm[t,h] * (1 + jitter * (2 u - 1)), u the uniform number of token t's element h     where jitter > 0
 *
 * Shapes: x ACTIVATION_TYPE [T,H]; vector f32 [H], read where SCALED; input f32 [T,H].
 * Launch: one work-item a token. Deterministic: the sum of squares runs over h in rising order. Token t of this launch is
 * number first_token + t of the pass, which is what its random numbers go by. */

#ifndef ACTIVATION_TYPE
#define ACTIVATION_TYPE f32
#endif
#ifndef NORMALISED
#define NORMALISED 0
#endif
#ifndef SCALED
#define SCALED 0
#endif

__kernel void make_input(uint tokens, uint hidden, __global const uchar *x_memory, ulong x_offset,
                         __global const float *vector_memory, ulong vector_offset, float epsilon, float scale,
                         float jitter, ulong seed, ulong step, uint first_token, __global float *input_memory,
                         ulong input_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const ELEMENT(ACTIVATION_TYPE) *x = VIEW(const ELEMENT(ACTIVATION_TYPE), x) + (ulong)token * hidden;
    __global float *input = VIEW(float, input) + (ulong)token * hidden;
    const struct random_stream stream = random_stream(seed, step, first_token + token, RANDOM_INPUT_JITTER);
    float factor = scale;
#if NORMALISED
    float sum = 0.0f;
    for (uint h = 0; h < hidden; h++) {
        const float value = CALL(load, ACTIVATION_TYPE)(x + h);
        sum += value * value;
    }
    factor /= sqrt(sum / hidden + epsilon);
#endif
    for (uint h = 0; h < hidden; h++) {
        float value = CALL(load, ACTIVATION_TYPE)(x + h) * factor;
#if SCALED
        value *= VIEW(const float, vector)[h];
#endif
        if (jitter > 0.0f)
            value *= 1.0f + jitter * (2.0f * random_uniform(&stream, h) - 1.0f);
        input[h] = value;
    }
}
