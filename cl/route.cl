/* SPDX-License-Identifier: Apache-2.0 */
/* route.cl - from logits to expert ids and routing weights.
 *
 * Shapes: logits [T, stride], of which the first E columns count; ids i32 [T,k]; weights f32 [T,k].
 * Launch: one work-item a token. Deterministic: sums run over experts in rising order, ties go to the lower index. */

/* NaN counts as -inf: it is chosen last, and the weights it spoils are NaN. */
inline float selection_key(float logit)
{
    return isnan(logit) ? -INFINITY : logit;
}

/* weights = softmax(logits)[ids], of the k largest; divided by their sum where `normalise`. The softmax is monotone, so
 * the logits themselves pick. */
__kernel void route_top_k(__global const float *logits_memory, ulong logits_offset, uint stride, uint tokens,
                          uint experts, uint top_k, uint normalise, __global int *ids_memory, ulong ids_offset,
                          __global float *weights_memory, ulong weights_offset, __global uint *flag_memory,
                          ulong flag_offset)
{
    const uint token = get_global_id(0);
    if (token >= tokens)
        return;
    __global const float *logits = VIEW(const float, logits) + (ulong)token * stride;
    __global int *ids = VIEW(int, ids) + (ulong)token * top_k;
    __global float *weights = VIEW(float, weights) + (ulong)token * top_k;

    bool finite = true;
    float largest = -INFINITY;
    for (uint e = 0; e < experts; e++) {
        finite = finite && is_finite(logits[e]);
        largest = fmax(largest, logits[e]);
    }
    if (!finite)
        atomic_or(VIEW(uint, flag), FLAG_NOT_FINITE);
    float sum = 0.0f;
    for (uint e = 0; e < experts; e++)
        sum += exp(logits[e] - largest);

    /* Each choice is the largest key behind the one before, in the order (key falling, index rising). */
    float previous_key = INFINITY;
    int previous = -1;
    float chosen_sum = 0.0f;
    for (uint j = 0; j < top_k; j++) {
        float best_key = -INFINITY;
        int best = -1;
        for (uint e = 0; e < experts; e++) {
            const float key = selection_key(logits[e]);
            const bool behind = key < previous_key || (key == previous_key && (int)e > previous);
            if (behind && (best < 0 || key > best_key)) {
                best_key = key;
                best = (int)e;
            }
        }
        ids[j] = best;
        weights[j] = exp(logits[best] - largest) / sum;
        chosen_sum += weights[j];
        previous_key = best_key;
        previous = best;
    }
    if (normalise)
        for (uint j = 0; j < top_k; j++)
            weights[j] /= chosen_sum;
}
