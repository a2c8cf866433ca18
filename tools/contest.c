/* SPDX-License-Identifier: Apache-2.0 */
/* contest.c - feeds, warming up, taking turns. */
#include "contest.h"

#include <math.h>
#include <stdlib.h>

#include "device.h"

enum {
    ROUTINGS_BYTES = 64 << 20, /* of ids and weights, where that allows more than two routings */
    SAMPLES_MIN = 3,
    READINGS_MAX = 100
};
static const double sample_seconds = 1e-3, reading_seconds = 0.4; /* of a sample at least; between readings at least */

/* ---------------------------------------------------------------------------------------------------- feed -- */

void feed_free(struct feed *feed)
{
    for (size_t i = 0; i < feed->routing_count; i++) {
        device_buffer_release(&feed->routings[i].ids);
        device_buffer_release(&feed->routings[i].weights);
    }
    device_buffer_release(&feed->x);
    device_buffer_release(&feed->y);
}

static size_t routing_count(size_t choices)
{
    size_t count = ROUTINGS_BYTES / (choices * (sizeof(int32_t) + sizeof(float)));
    return count < 2 ? 2 : count > ROUTINGS_MAX ? ROUTINGS_MAX : count;
}

static size_t count_touched(const int32_t *ids, size_t choices)
{
    bool touched[MOECL_MAX_EXPERTS] = {false};
    size_t count = 0;
    for (size_t i = 0; i < choices; i++) {
        count += !touched[ids[i]];
        touched[ids[i]] = true;
    }
    return count;
}

double feed_bytes(const moecl_layer_options *layer, size_t tokens)
{
    size_t choices = tokens * layer->top_k;
    return 2 * (double)(tokens * layer->hidden * moecl_type_size(layer->activations)) +
           (double)(routing_count(choices) * choices * (sizeof(int32_t) + sizeof(float)));
}

static enum outcome make_routings(moecl_context *context, const moecl_layer_options *layer,
                                  enum synthetic_routing routing, uint64_t seed, struct feed *feed, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t choices = feed->tokens * layer->top_k, count = routing_count(choices);
    int32_t *ids = malloc(choices * sizeof(*ids));
    float *weights = malloc(choices * sizeof(*weights));
    if (!ids || !weights) {
        outcome = fault_memory(fault, "the routing");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        moecl_routing *made = &feed->routings[feed->routing_count++];
        synthetic_route(seed, i, routing, feed->tokens, layer->experts, layer->top_k, ids, weights);
        feed->experts_touched += (double)count_touched(ids, choices) / (double)count;
        TRY(device_buffer_create(context, "ids", choices * sizeof(*ids), ids, &made->ids, fault));
        TRY(device_buffer_create(context, "routing weights", choices * sizeof(*weights), weights, &made->weights,
                                 fault));
    }
out:
    free(ids);
    free(weights);
    return outcome;
}

enum outcome feed_make(moecl_context *context, const moecl_layer_options *layer, enum synthetic_routing routing,
                       uint64_t seed, size_t tokens, struct feed *feed, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t count = tokens * layer->hidden, bytes = count * moecl_type_size(layer->activations);
    float *values = malloc(count * sizeof(float));
    void *rounded = malloc(bytes);
    feed->tokens = tokens;
    if (!values || !rounded) {
        outcome = fault_memory(fault, "the activations");
        goto out;
    }
    synthetic_activations(seed, values, count);
    moecl_convert(values, MOECL_F32, rounded, layer->activations, count);
    TRY(device_buffer_create(context, "x", bytes, rounded, &feed->x, fault));
    TRY(device_buffer_create(context, "y", bytes, NULL, &feed->y, fault));
    TRY(make_routings(context, layer, routing, seed, feed, fault));
out:
    free(values);
    free(rounded);
    return outcome;
}

/* ----------------------------------------------------------------------------------------------- measuring -- */

/* Seconds of `calls` forward passes, each with the contender's next routing. */
static enum outcome time_calls(moecl_context *context, struct contender *contender, const struct feed *feed,
                               size_t calls, double *seconds, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    double start = clock_seconds();
    for (size_t i = 0; i < calls; i++) {
        moecl_forward forward = {.tokens = feed->tokens,
                                 .x = feed->x,
                                 .y = feed->y,
                                 .routing = feed->routings[contender->next++ % feed->routing_count],
                                 .routing_given = true};
        TRY_MOECL(context, moecl_layer_forward(contender->layer, &forward, 0, NULL, NULL));
    }
    TRY(device_finish(context, fault));
    *seconds = clock_seconds() - start;
out:
    return outcome;
}

/* Compiles and warms with one call, sizes the samples by a second, unless the first took so long that it tells. */
static enum outcome warm_up(moecl_context *context, struct contender *contender, const struct feed *feed,
                            struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    double seconds = 0;
    contender->next = 0;
    contender->samples = 0;
    contender->spent = 0;
    TRY(time_calls(context, contender, feed, 1, &seconds, fault));
    if (seconds < 10)
        TRY(time_calls(context, contender, feed, 1, &seconds, fault));
    contender->calls = seconds >= sample_seconds ? 1 : (size_t)ceil(sample_seconds / fmax(seconds, 1e-5));
out:
    return outcome;
}

static bool finished(const struct contender *contender, double seconds)
{
    if (contender->samples == 0 || contender->samples == SAMPLES_MAX)
        return contender->samples > 0;
    return contender->spent >= (contender->samples >= SAMPLES_MIN ? seconds : 10 * seconds);
}

/* What the meter said in a contest. */
struct readings {
    size_t count;
    double next; /* time from which on another one is due */
    double read[READINGS_MAX], copy[READINGS_MAX], fp32[READINGS_MAX], bf16[READINGS_MAX];
};

static enum outcome read_meter(moecl_context *context, moecl_meter *meter, struct readings *readings,
                               struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_limits limits;
    const size_t i = readings->count;
    if (i == READINGS_MAX || clock_seconds() < readings->next)
        return OUTCOME_SUCCESS;
    TRY_MOECL(context, moecl_meter_read(meter, 1e-3, &limits));
    readings->read[i] = limits.read_bytes_per_second;
    readings->copy[i] = limits.copy_bytes_per_second;
    readings->fp32[i] = limits.fp32_flops;
    readings->bf16[i] = limits.bf16_flops;
    readings->count++;
    readings->next = clock_seconds() + reading_seconds;
out:
    return outcome;
}

static moecl_limits median_limits(struct readings *readings)
{
    return (moecl_limits){.read_bytes_per_second = clock_quantile(readings->read, readings->count, 0.5),
                          .copy_bytes_per_second = clock_quantile(readings->copy, readings->count, 0.5),
                          .fp32_flops = clock_quantile(readings->fp32, readings->count, 0.5),
                          .bf16_flops = clock_quantile(readings->bf16, readings->count, 0.5)};
}

enum outcome contest_run(moecl_context *context, moecl_meter *meter, struct contender *contenders, size_t count,
                         const struct feed *feed, double seconds, moecl_limits *limits, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    struct readings readings = {.count = 0};
    TRY(read_meter(context, meter, &readings, fault));
    for (size_t i = 0; i < count; i++)
        TRY(warm_up(context, &contenders[i], feed, fault));
    for (size_t busy = count; busy > 0;) {
        busy = 0;
        TRY(read_meter(context, meter, &readings, fault));
        for (size_t i = 0; i < count; i++) {
            struct contender *contender = &contenders[i];
            double taken = 0;
            if (finished(contender, seconds))
                continue;
            TRY(time_calls(context, contender, feed, contender->calls, &taken, fault));
            contender->times[contender->samples++] = taken / (double)contender->calls;
            contender->spent += taken;
            busy++;
        }
    }
    *limits = median_limits(&readings);
    for (size_t i = 0; i < count; i++)
        TRY_MOECL(context, moecl_layer_check(contenders[i].layer));
out:
    return outcome;
}
