/* SPDX-License-Identifier: Apache-2.0 */
/* contest.h - timing the expert block of several layers, beside each other.
 *
 * The routing is the caller's, made beforehand, and another one in each call, so that with few tokens other experts
 * are touched from call to call and no cache serves their weights. The contenders take turns (A B A B), so that what
 * disturbs the machine disturbs them alike. */
#ifndef TOOLS_CONTEST_H
#define TOOLS_CONTEST_H

#include <moecl/measure.h>

#include "fault.h"
#include "synthetic.h"

enum { ROUTINGS_MAX = 32, SAMPLES_MAX = 1000 };

/* What the calls for some number of tokens work on. Zero-initialise. */
struct feed {
    size_t tokens;
    size_t routing_count;
    moecl_routing routings[ROUTINGS_MAX];
    double experts_touched; /* mean over the routings */
    moecl_buffer x, y;
};

/* A variant with its layer, and its times for one feed. */
struct contender {
    const char *variant;
    moecl_layer *layer;
    size_t next;  /* routing */
    size_t calls; /* in a sample: enough to last about a millisecond */
    size_t samples;
    double times[SAMPLES_MAX]; /* of a call, in seconds; one a sample */
    double spent;              /* seconds */
};

enum outcome feed_make(moecl_context *context, const moecl_layer_options *layer, enum synthetic_routing routing,
                       uint64_t seed, size_t tokens, struct feed *feed, struct fault *fault);
void feed_free(struct feed *feed);
/* Device bytes of a feed. */
double feed_bytes(const moecl_layer_options *layer, size_t tokens);

/* Warms every contender up and takes samples for `seconds` of each; of a slow one at least a few, unless those take
 * more than ten times as long. Reads the meter now and then meanwhile; `limits` are the medians of its readings. */
enum outcome contest_run(moecl_context *context, moecl_meter *meter, struct contender *contenders, size_t count,
                         const struct feed *feed, double seconds, moecl_limits *limits, struct fault *fault);

#endif
