/* SPDX-License-Identifier: Apache-2.0 */
/* capacity.cl - takes back the choices that an expert has no room for: their ids become -1, their weights 0.
 *
 * The choices a = t*k + j are sorted by expert first (permute.cl), in the order in which they queue up:
 *
 *     order        sorted are             then
 *     POSITION     ids [T,k]              capacity_positions: those C and more behind their expert's first row go
 *     CHOICE       their transpose [k,T]  the same
 *     PROBABILITY  ids [T,k]              capacity_probabilities: of each expert's rows the C of largest weight stay,
 *                                         of equal weights the first
 *
 *     capacity_transpose       a work-item (t, j):      queue[j*T + t] = ids[t*k + j]
 *     capacity_positions       a work-item (t, j)
 *     capacity_probabilities   a work-item an expert:   finds the C-th largest weight bit by bit, 32 times over the
 *                                                       expert's rows; nothing where all of them have room
 *
 * Shapes: ids i32, queue i32, weights f32, rows i32 (choice in order of the queue -> sorted row, -1: of no expert here),
 * assignments u32 (sorted row -> choice), all [T*k], below 2^31; offsets u32 [E+1].
 * Deterministic: a choice has one owner, an order is that of the sort or of integers. */

__kernel void capacity_transpose(uint tokens, uint slots, __global const int *ids_memory, ulong ids_offset,
                                 __global int *queue_memory, ulong queue_offset)
{
    const uint token = get_global_id(0), slot = get_global_id(1);
    if (token < tokens && slot < slots)
        VIEW(int, queue)[slot * tokens + token] = VIEW(const int, ids)[token * slots + slot];
}

/* `transposed`: choice t*k + j stands at j*T + t of the queue; else at its own number. */
__kernel void capacity_positions(uint tokens, uint slots, uint transposed, uint room, __global const int *rows_memory,
                                 ulong rows_offset, __global const uint *offsets_memory, ulong offsets_offset,
                                 __global int *ids_memory, ulong ids_offset, __global float *weights_memory,
                                 ulong weights_offset)
{
    const uint token = get_global_id(0), slot = get_global_id(1);
    if (token >= tokens || slot >= slots)
        return;
    const uint choice = token * slots + slot;
    const int row = VIEW(const int, rows)[transposed ? slot * tokens + token : choice];
    if (row < 0)
        return;
    __global int *id = VIEW(int, ids) + choice;
    if ((uint)row - VIEW(const uint, offsets)[*id] >= room) {
        *id = -1;
        VIEW(float, weights)[choice] = 0.0f;
    }
}

/* Integers in the order of the floats: NaN lowest, then -infinity; the two zeros alike. */
inline uint sortable(float weight)
{
    const uint bits = as_uint(weight == 0.0f ? 0.0f : weight);
    if (isnan(weight))
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__kernel void capacity_probabilities(uint experts, uint room, __global const uint *assignments_memory,
                                     ulong assignments_offset, __global const uint *offsets_memory, ulong offsets_offset,
                                     __global int *ids_memory, ulong ids_offset, __global float *weights_memory,
                                     ulong weights_offset)
{
    const uint e = get_global_id(0);
    if (e >= experts)
        return;
    __global const uint *offsets = VIEW(const uint, offsets);
    __global const uint *choices = VIEW(const uint, assignments) + offsets[e];
    __global float *weights = VIEW(float, weights);
    const uint count = offsets[e + 1] - offsets[e];
    if (count <= room)
        return;

    /* The largest `least` that `room` weights reach; fewer than that are above it. Without room, it is above all. */
    uint least = 0, above = 0;
    for (uint bit = 0x80000000u; bit != 0; bit >>= 1) {
        uint reach = 0;
        for (uint i = 0; i < count; i++)
            reach += sortable(weights[choices[i]]) >= (least | bit);
        if (reach >= room)
            least |= bit;
    }
    for (uint i = 0; i < count; i++)
        above += sortable(weights[choices[i]]) > least;
    uint ties = room - above; /* that have room */
    for (uint i = 0; i < count; i++) {
        const uint key = sortable(weights[choices[i]]);
        const bool tie = key == least && ties > 0;
        if (key > least || tie) {
            ties -= tie;
            continue;
        }
        VIEW(int, ids)[choices[i]] = -1;
        weights[choices[i]] = 0.0f;
    }
}
