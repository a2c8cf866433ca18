/* SPDX-License-Identifier: Apache-2.0 */
/* statistics.h - how evenly a routing loads the experts: figures off the device, as text and JSON. */
#ifndef TOOLS_STATISTICS_H
#define TOOLS_STATISTICS_H

#include <jansson.h>
#include <stdint.h>

#include <moecl/stages.h>

#include "fault.h"

/* Zero-initialise. */
struct statistics {
    size_t tokens, slots, outputs; /* T; choices of a token; R: the experts, then the zero experts */
    size_t experts;
    bool experts_choose; /* a choice that is not used was then not taken, rather than dropped */
    uint32_t *load;      /* [R] */
    moecl_load_statistics figures;
};

/* Of ids i32 [T, slots] on the device. Blocks. */
enum outcome statistics_read(struct statistics *statistics, moecl_context *context, const moecl_layer_options *options,
                             size_t tokens, moecl_buffer ids, struct fault *fault);
void statistics_free(struct statistics *statistics); /* zeroes it */

/* Choices dropped for want of room, or below a threshold. */
uint32_t statistics_dropped(const struct statistics *statistics);
/* The entropy over ln R, its largest value: 1 is even. 1 where there is a single output. */
double statistics_evenness(const struct statistics *statistics);
/* The figures, a line each, and a table of the experts. */
enum outcome statistics_print(const struct statistics *statistics, struct fault *fault);
/* {used, dropped, unserved_tokens, largest, idle, mean, max_over_mean, entropy, evenness, cv_squared} */
json_t *statistics_json(const struct statistics *statistics);
json_t *statistics_load_json(const struct statistics *statistics);

#endif
