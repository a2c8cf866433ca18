/* SPDX-License-Identifier: Apache-2.0 */
/* chunk.h - a forward pass, cut into chunks of tokens that the workspace holds; routing.c and forward.c share it. */
#ifndef MOECL_RUNTIME_CHUNK_H
#define MOECL_RUNTIME_CHUNK_H

#include "layer.h"

/* A public call. */
struct moecl_pass {
    moecl_layer *layer;
    const moecl_forward *forward;
    moecl_stage_times *times; /* NULL: nobody watches */
    bool route_only;
    moecl_buffer logits; /* of route_only: where they are wanted; memory NULL: nowhere */
    struct moecl_chain *chain;
    size_t chunk_tokens;
};

/* A part of its tokens. */
struct moecl_chunk {
    struct moecl_layer *layer;
    struct moecl_chain *chain;
    const struct moecl_pass *pass;
    size_t first, tokens;
    moecl_buffer x, y;
    moecl_routing routing; /* in or out */
};

/* The tokens from `first` on, as many as a chunk takes. */
struct moecl_chunk moecl_chunk_at(const struct moecl_pass *pass, size_t first);
moecl_buffer moecl_chunk_region(const struct moecl_chunk *chunk, enum moecl_region name);

/* Whether the chunk is one token whose rows the variant takes as they come: nothing is sorted. */
bool moecl_chunk_is_token(const struct moecl_chunk *chunk);

/* A product of a layer's part, over rows of `grouping` in the variant's input form. */
moecl_status moecl_chunk_multiply(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping,
                                  moecl_layer_part part, enum moecl_form form, enum moecl_region from, moecl_buffer to);
/* The same of x: its rows as the route stage has packed them, by the grouping `all`; or one token as it is. */
moecl_status moecl_chunk_multiply_x(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping,
                                    moecl_layer_part part, enum moecl_form form, moecl_buffer to);
/* Rows of `depth` values in the variant's input form; `divisor` 0: row r is row r. `row_weights`: memory NULL for none.
 */
moecl_status moecl_chunk_pack(const struct moecl_chunk *chunk, const struct moecl_grouping *grouping, moecl_buffer rows,
                              moecl_type type, size_t depth, size_t divisor, moecl_buffer row_weights,
                              enum moecl_region to);

/* Where routing depends on all tokens: routes the whole pass, before its chunks are computed. */
moecl_status moecl_route_pass(const struct moecl_pass *pass);
/* The routing of one chunk, and what of x later stages need: its packed rows, the shared gate's logits. */
moecl_status moecl_route_chunk(const struct moecl_chunk *chunk);
/* The logits of a chunk, at the place that they have in their region; and those of the shared gate. */
moecl_buffer moecl_chunk_logits(const struct moecl_chunk *chunk);
moecl_buffer moecl_chunk_shared_logits(const struct moecl_chunk *chunk);

#endif
