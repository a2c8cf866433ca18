/* SPDX-License-Identifier: Apache-2.0 */
/* permute.cl - sorts the T*k assignments by expert: a stable counting sort.
 *
 * An assignment a = t*k + j is token t's choice j. The assignments are cut into chunks of `length`; chunk c has a row of
 * counts, one for each expert.
 *
 *     permute_count     a work-item a chunk:     counts[c][e] = how many of the chunk's ids are e
 *     permute_scan      a work-item an expert:   counts[c][e] = sum over chunks before c; totals[e] = the sum over all
 *     permute_offsets   one work-item:           offsets = prefix of totals, with a leading zero
 *     permute_scatter   a work-item a chunk:     row = offsets[e] + counts[c][e]++, in the order of the assignments
 *
 *     permute_few       one work-item:           all of it, where there is one chunk: launches take longer than the work
 *
 * Shapes: ids i32 [T*k]; counts u32 [chunks][E]; totals u32 [E]; offsets u32 [E+1]; assignments u32 [capacity] (row ->
 * assignment); rows i32 [T*k] (assignment -> row, -1 where there is none).
 *
 * Ids of -1 are unused choices, those of E to `outputs` - 1 zero experts, which have no rows; other ids outside 0..E-1
 * have none either and raise the flag. Rows past `capacity` do not exist: offsets stop there.
 * Deterministic: no atomics decide an order, each count has one owner. */

inline void count_ids(__global const int *ids, uint begin, uint end, uint experts, __global uint *counts)
{
    for (uint e = 0; e < experts; e++)
        counts[e] = 0;
    for (uint a = begin; a < end; a++)
        if (ids[a] >= 0 && (uint)ids[a] < experts)
            counts[ids[a]]++;
}

__kernel void permute_count(__global const int *ids_memory, ulong ids_offset, uint count, uint length, uint experts,
                            __global uint *counts_memory, ulong counts_offset)
{
    const uint chunk = get_global_id(0);
    const uint begin = chunk * length, end = min(begin + length, count);
    if (begin >= count)
        return;
    count_ids(VIEW(const int, ids), begin, end, experts, VIEW(uint, counts) + (ulong)chunk * experts);
}

__kernel void permute_scan(uint chunks, uint experts, __global uint *counts_memory, ulong counts_offset,
                           __global uint *totals_memory, ulong totals_offset)
{
    __global uint *counts = VIEW(uint, counts);
    const uint e = get_global_id(0);
    if (e >= experts)
        return;
    uint total = 0;
    for (uint c = 0; c < chunks; c++) {
        const uint count = counts[(ulong)c * experts + e];
        counts[(ulong)c * experts + e] = total;
        total += count;
    }
    VIEW(uint, totals)[e] = total;
}

__kernel void permute_offsets(uint experts, uint capacity, __global const uint *totals_memory, ulong totals_offset,
                              __global uint *offsets_memory, ulong offsets_offset)
{
    __global const uint *totals = VIEW(const uint, totals);
    __global uint *offsets = VIEW(uint, offsets);
    if (get_global_id(0) != 0)
        return;
    uint total = 0;
    for (uint e = 0; e < experts; e++) {
        offsets[e] = min(total, capacity);
        total += totals[e];
    }
    offsets[experts] = min(total, capacity);
}

/* Gives assignments begin to end-1 their rows, `counts` of an expert's being given before. False where an id is of no
 * expert. */
inline bool place(__global const int *ids, uint begin, uint end, uint experts, uint outputs, uint capacity,
                  __global const uint *offsets, __global uint *counts, __global uint *assignments, __global int *rows)
{
    bool in_range = true;
    for (uint a = begin; a < end; a++) {
        const int e = ids[a];
        rows[a] = -1;
        if (e >= 0 && (uint)e < experts) {
            const uint row = offsets[e] + counts[e]++;
            if (row < capacity) {
                assignments[row] = a;
                rows[a] = (int)row;
            }
        } else if (e < -1 || (e >= 0 && (uint)e >= outputs)) {
            in_range = false;
        }
    }
    return in_range;
}

__kernel void permute_scatter(__global const int *ids_memory, ulong ids_offset, uint count, uint length, uint experts,
                              uint outputs, uint capacity, __global uint *counts_memory, ulong counts_offset,
                              __global const uint *offsets_memory, ulong offsets_offset,
                              __global uint *assignments_memory, ulong assignments_offset, __global int *rows_memory,
                              ulong rows_offset, __global uint *flag_memory, ulong flag_offset, uint flag)
{
    const uint chunk = get_global_id(0);
    const uint begin = chunk * length, end = min(begin + length, count);
    if (begin >= count)
        return;
    if (!place(VIEW(const int, ids), begin, end, experts, outputs, capacity, VIEW(const uint, offsets),
               VIEW(uint, counts) + (ulong)chunk * experts, VIEW(uint, assignments), VIEW(int, rows)) &&
        flag)
        atomic_or(VIEW(uint, flag), flag);
}

__kernel void permute_few(__global const int *ids_memory, ulong ids_offset, uint count, uint experts, uint outputs,
                          uint capacity, __global uint *counts_memory, ulong counts_offset,
                          __global uint *offsets_memory, ulong offsets_offset, __global uint *assignments_memory,
                          ulong assignments_offset, __global int *rows_memory, ulong rows_offset,
                          __global uint *flag_memory, ulong flag_offset, uint flag)
{
    __global uint *counts = VIEW(uint, counts), *offsets = VIEW(uint, offsets);
    if (get_global_id(0) != 0)
        return;
    count_ids(VIEW(const int, ids), 0, count, experts, counts);
    uint total = 0;
    for (uint e = 0; e < experts; e++) {
        offsets[e] = min(total, capacity);
        total += counts[e];
        counts[e] = 0;
    }
    offsets[experts] = min(total, capacity);
    if (!place(VIEW(const int, ids), 0, count, experts, outputs, capacity, offsets, counts, VIEW(uint, assignments),
               VIEW(int, rows)) &&
        flag)
        atomic_or(VIEW(uint, flag), flag);
}
