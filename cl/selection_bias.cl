/* SPDX-License-Identifier: Apache-2.0 */
/* selection_bias.cl - loss-free balancing (Wang 2024, DeepSeek-V3): bias[e] += rate * sign(mean load - load[e]).
 *
 * Shapes: load u32 [R] (statistics.cl counts it); bias f32 [R].
 * Launch: a work-item an output. Deterministic: the loads are compared as integers. */

__kernel void selection_bias_update(uint outputs, float rate, __global const uint *load_memory, ulong load_offset,
                                    __global float *bias_memory, ulong bias_offset)
{
    const uint e = get_global_id(0);
    if (e >= outputs)
        return;
    __global const uint *load = VIEW(const uint, load);
    __global float *bias = VIEW(float, bias);
    ulong total = 0;
    for (uint i = 0; i < outputs; i++)
        total += load[i];
    const ulong scaled = (ulong)load[e] * outputs;
    if (scaled < total)
        bias[e] += rate;
    else if (scaled > total)
        bias[e] -= rate;
}
