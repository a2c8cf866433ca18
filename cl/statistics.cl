/* SPDX-License-Identifier: Apache-2.0 */
/* statistics.cl - how many choices fall on each output of a router, and how evenly.
 *
 *     statistics_count      groups of GROUP, a work-item strides over tokens: load[id]++, and what is not used
 *     statistics_figures    one work-item: the figures of the loads
 *
 * Shapes: ids i32 [T, slots], -1 or out of range: not used; load u32 [R], and figures (moecl_load_statistics, the same
 * members), both zero at first. R <= MOST_OUTPUTS.
 * Deterministic: atomics add integers, whose order does not matter; floats are summed by one work-item in rising order. */

#ifndef GROUP
#define GROUP 64
#endif
#ifndef MOST_OUTPUTS
#define MOST_OUTPUTS 1024
#endif

struct figures {
    uint used, unused, unserved, largest, idle;
    float mean, largest_over_mean, entropy, squared_variation;
};

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void statistics_count(
    uint tokens, uint slots, uint outputs, __global const int *ids_memory, ulong ids_offset, __global uint *load_memory,
    ulong load_offset, __global struct figures *figures_memory, ulong figures_offset)
{
    __local uint counts[MOST_OUTPUTS];
    __local uint unused, unserved;
    const uint item = get_local_id(0);
    for (uint e = item; e < outputs; e += GROUP)
        counts[e] = 0;
    if (item == 0)
        unused = unserved = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint token = get_global_id(0); token < tokens; token += get_global_size(0)) {
        __global const int *ids = VIEW(const int, ids) + (ulong)token * slots;
        uint used = 0;
        for (uint j = 0; j < slots; j++) {
            if (ids[j] < 0 || (uint)ids[j] >= outputs)
                continue;
            atomic_inc(&counts[ids[j]]);
            used++;
        }
        if (used < slots)
            atomic_add(&unused, slots - used);
        if (used == 0)
            atomic_inc(&unserved);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint e = item; e < outputs; e += GROUP)
        if (counts[e] > 0)
            atomic_add(VIEW(uint, load) + e, counts[e]);
    if (item == 0) {
        __global struct figures *figures = VIEW(struct figures, figures);
        atomic_add(&figures->unused, unused);
        atomic_add(&figures->unserved, unserved);
    }
}

__kernel void statistics_figures(uint outputs, __global const uint *load_memory, ulong load_offset,
                                 __global struct figures *figures_memory, ulong figures_offset)
{
    __global const uint *load = VIEW(const uint, load);
    __global struct figures *figures = VIEW(struct figures, figures);
    uint used = 0, largest = 0, idle = 0;
    if (get_global_id(0) != 0)
        return;
    for (uint e = 0; e < outputs; e++) {
        used += load[e];
        largest = max(largest, load[e]);
        idle += load[e] == 0;
    }
    const float mean = (float)used / (float)outputs;
    float entropy = 0.0f, variance = 0.0f;
    for (uint e = 0; e < outputs; e++) {
        const float share = (float)load[e] / (float)used, deviation = (float)load[e] - mean;
        if (load[e] > 0)
            entropy -= share * log(share);
        variance += deviation * deviation;
    }
    figures->used = used;
    figures->largest = largest;
    figures->idle = idle;
    figures->mean = mean;
    figures->largest_over_mean = used > 0 ? (float)largest / mean : 0.0f;
    figures->entropy = entropy;
    figures->squared_variation = used > 0 ? variance / (float)outputs / (mean * mean) : 0.0f;
}
