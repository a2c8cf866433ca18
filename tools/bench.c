/* SPDX-License-Identifier: Apache-2.0 */
/* bench.c - moecl bench: how fast the expert block of a layer runs (contest.h), beside what the device could do at all.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/measure.h>

#include "command.h"
#include "contest.h"
#include "device.h"
#include "output.h"
#include "shapes.h"
#include "synthetic.h"
#include "weights.h"

struct bench_options {
    struct common_options common;
    struct shape shape;
    struct size_list tokens;
    struct type_list dtypes, activations; /* no activations: as the weights */
    struct variant_list variants;         /* none: all */
    int routing;                          /* an enum synthetic_routing */
    double seconds;                       /* for a variant in a cell */
    uint64_t seed;
};

struct bench {
    const struct bench_options *options;
    moecl_context *context;
    moecl_device_info device;
    moecl_meter *meter;
    moecl_limits limits; /* first for the heading, then of the cell at hand */
    struct variant_list variants;
    size_t tokens_max;
    struct table table;
    json_t *rows;
};

/* -------------------------------------------------------------------------------------------------- layers -- */

static moecl_layer_options layer_options(const struct bench *bench, moecl_type dtype, moecl_type activations)
{
    const struct shape *shape = &bench->options->shape;
    return (moecl_layer_options){.experts = shape->experts,
                                 .hidden = shape->hidden,
                                 .intermediate = shape->intermediate,
                                 .top_k = shape->top_k,
                                 .weights = dtype,
                                 .activations = activations};
}

/* Makes the layers, and drops those that their variants do not serve, unless the user named the variants. */
static enum outcome make_layers(const struct bench *bench, const moecl_layer_options *options,
                                struct contender *contenders, size_t *count, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t kept = 0;
    for (size_t i = 0; i < *count; i++) {
        struct contender *contender = &contenders[kept];
        moecl_layer_options wanted = *options;
        contender->variant = wanted.variant = contenders[i].variant;
        moecl_status status = moecl_layer_create(bench->context, &wanted, &contender->layer);
        if (status == MOECL_UNSUPPORTED && bench->options->variants.count == 0)
            continue;
        TRY_MOECL(bench->context, status);
        kept++;
        TRY_MOECL(bench->context, moecl_layer_reserve(contender->layer, bench->tokens_max));
    }
out:
    *count = kept;
    return outcome;
}

/* Makes the weights expert by expert, each given to all layers. The router is never run and needs none. */
static enum outcome set_weights(const struct bench *bench, const moecl_layer_options *options,
                                struct contender *contenders, size_t count, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t hidden = options->hidden, intermediate = options->intermediate;
    void *memory = malloc(3 * hidden * intermediate * moecl_type_size(options->weights));
    if (!memory) {
        outcome = fault_memory(fault, "an expert's weights");
        goto out;
    }
    for (size_t e = 0; e < options->experts; e++) {
        output_progress("making weights: expert %zu of %zu", e + 1, options->experts);
        moecl_expert_weights expert =
            weights_make_expert(hidden, intermediate, options->weights, bench->options->seed, e, memory);
        for (size_t i = 0; i < count; i++)
            TRY_MOECL(bench->context, moecl_layer_set_expert(contenders[i].layer, e, &expert));
    }
out:
    output_progress("%s", "");
    free(memory);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- results -- */

struct result {
    double seconds, fast, slow; /* median, 10th and 90th percentile */
    double flops, bytes;        /* of one call */
    double limit;               /* seconds that the device must take */
};

static struct result evaluate(const struct bench *bench, const moecl_layer_options *layer, struct contender *contender,
                              const struct feed *feed)
{
    double expert = 3 * (double)layer->hidden * (double)layer->intermediate;
    struct result result = {
        .seconds = clock_quantile(contender->times, contender->samples, 0.5),
        .fast = clock_quantile(contender->times, contender->samples, 0.1),
        .slow = clock_quantile(contender->times, contender->samples, 0.9),
        .flops = 2 * (double)(feed->tokens * layer->top_k) * expert,
        .bytes = feed->experts_touched * expert * (double)moecl_type_size(layer->weights),
    };
    const bool bf16 = layer->weights == MOECL_BF16 && layer->activations == MOECL_BF16;
    const double peak = bf16 ? bench->limits.bf16_flops : bench->limits.fp32_flops;
    result.limit = fmax(result.bytes / bench->limits.read_bytes_per_second, result.flops / peak);
    return result;
}

static json_t *result_json(const struct bench *bench, const moecl_layer_options *layer,
                           const struct contender *contender, const struct feed *feed, const struct result *result)
{
    char title[DEVICE_TEXT];
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:s}",
        "shape", bench->options->shape.name ? bench->options->shape.name : "custom", "experts",
        (json_int_t)layer->experts, "hidden", (json_int_t)layer->hidden, "intermediate",
        (json_int_t)layer->intermediate, "top_k", (json_int_t)layer->top_k, "tokens", (json_int_t)feed->tokens, "dtype",
        moecl_type_name(layer->weights), "activations", moecl_type_name(layer->activations), "variant",
        contender->variant, "routing", synthetic_routing_names[bench->options->routing], "milliseconds",
        output_number(1e3 * result->seconds), "milliseconds_p10", output_number(1e3 * result->fast), "milliseconds_p90",
        output_number(1e3 * result->slow), "samples", (json_int_t)contender->samples, "experts_touched",
        output_number(feed->experts_touched), "gflops", output_number(1e-9 * result->flops / result->seconds),
        "gbytes_per_second", output_number(1e-9 * result->bytes / result->seconds), "limit_milliseconds",
        output_number(1e3 * result->limit), "fraction_of_limit", output_number(result->limit / result->seconds),
        "device_read_gbytes_per_second", output_number(1e-9 * bench->limits.read_bytes_per_second),
        "device_fp32_gflops", output_number(1e-9 * bench->limits.fp32_flops), "device_bf16_gflops",
        output_number(1e-9 * bench->limits.bf16_flops), "device", output_string(device_title(title, &bench->device)),
        "driver", bench->device.driver);
}

static enum outcome report(struct bench *bench, const moecl_layer_options *layer, struct contender *contender,
                           const struct feed *feed, struct fault *fault)
{
    struct result result = evaluate(bench, layer, contender, feed);
    struct table *table = &bench->table;
    output_progress("%s", "");
    if (bench->options->common.json) {
        json_array_append_new(bench->rows, result_json(bench, layer, contender, feed, &result));
        return OUTCOME_SUCCESS;
    }
    table_cell(table, "%zu", feed->tokens);
    table_cell(table, "%s", moecl_type_name(layer->weights));
    table_cell(table, "%s", moecl_type_name(layer->activations));
    table_cell(table, "%s", contender->variant);
    table_cell(table, "%.3f", 1e3 * result.seconds);
    table_cell(table, "%.3f to %.3f", 1e3 * result.fast, 1e3 * result.slow);
    table_cell(table, "%.1f", 1e-9 * result.flops / result.seconds);
    table_cell(table, "%.1f", 1e-9 * result.bytes / result.seconds);
    table_cell(table, "%.0f %%", 100 * result.limit / result.seconds);
    return table_print(table, fault);
}

/* --------------------------------------------------------------------------------------------------- cells -- */

/* All numbers of tokens, for layers of the same options that are loaded at the same time. */
static enum outcome bench_together(struct bench *bench, const moecl_layer_options *options,
                                   struct contender *contenders, size_t count, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    struct feed feed = {.tokens = 0};
    TRY(make_layers(bench, options, contenders, &count, fault));
    TRY(set_weights(bench, options, contenders, count, fault));
    for (size_t i = 0; i < bench->options->tokens.count; i++) {
        size_t tokens = bench->options->tokens.items[i];
        output_progress("measuring %zu tokens, %s weights", tokens, moecl_type_name(options->weights));
        TRY(feed_make(bench->context, options, (enum synthetic_routing)bench->options->routing, bench->options->seed,
                      tokens, &feed, fault));
        TRY(contest_run(bench->context, bench->meter, contenders, count, &feed, bench->options->seconds, &bench->limits,
                        fault));
        for (size_t c = 0; c < count; c++)
            TRY(report(bench, options, &contenders[c], &feed, fault));
        feed_free(&feed);
        feed = (struct feed){.tokens = 0};
    }
out:
    feed_free(&feed);
    for (size_t i = 0; i < count; i++)
        moecl_layer_destroy(contenders[i].layer);
    return outcome;
}

/* Device bytes beside weights. */
static double cell_bytes(const struct bench *bench, const moecl_layer_options *options)
{
    return feed_bytes(options, bench->tokens_max) + (double)MOECL_METER_BYTES;
}

/* One pair of types: all variants together where the device has room for that, else one after the other. */
static enum outcome bench_types(struct bench *bench, moecl_type dtype, moecl_type activations, struct fault *fault)
{
    moecl_layer_options options = layer_options(bench, dtype, activations);
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t variants = bench->variants.count;
    double needed = (double)variants * shape_cost(&options).weight_bytes + cell_bytes(bench, &options);
    size_t together = needed <= (double)device_available_memory(&bench->device) ? variants : 1;
    struct contender *contenders = malloc(together * sizeof(*contenders));
    if (!contenders)
        return fault_memory(fault, "the times");
    for (size_t first = 0; first < variants; first += together) {
        for (size_t i = 0; i < together; i++)
            contenders[i] = (struct contender){.variant = bench->variants.items[first + i]};
        TRY(bench_together(bench, &options, contenders, together, fault));
    }
out:
    free(contenders);
    return outcome;
}

/* Refuses what cannot be held before anything is made. */
static enum outcome check_memory(const struct bench *bench, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    const struct bench_options *options = bench->options;
    for (size_t d = 0; d < options->dtypes.count; d++) {
        moecl_layer_options layer = layer_options(bench, options->dtypes.items[d], MOECL_F32);
        char shape[SHAPE_TEXT], what[SHAPE_TEXT + 64];
        double expert = 3 * (double)(layer.hidden * layer.intermediate * moecl_type_size(layer.weights));
        snprintf(what, sizeof(what), "a layer of %s with %s weights", shape_describe(shape, &layer),
                 moecl_type_name(layer.weights));
        TRY(device_require_memory(&bench->device, what, shape_cost(&layer).weight_bytes + cell_bytes(bench, &layer),
                                  expert, fault));
    }
out:
    return outcome;
}

static enum outcome check_options(const struct bench_options *options, size_t *tokens_max, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    for (size_t i = 0; i < options->tokens.count; i++) {
        size_t tokens = options->tokens.items[i];
        if (tokens < 1 || tokens > MOECL_MAX_TOKENS) {
            fault_set(fault, OUTCOME_WRONG_USE, "--tokens must be 1 to %d, not %zu", MOECL_MAX_TOKENS, tokens);
            outcome = fault_hint(fault, OUTCOME_WRONG_USE, "try 'moecl bench --help'");
            goto out;
        }
        *tokens_max = tokens > *tokens_max ? tokens : *tokens_max;
    }
out:
    return outcome;
}

static void print_heading(const struct bench *bench)
{
    const struct shape *shape = &bench->options->shape;
    char title[DEVICE_TEXT];
    printf("%s%s%zu,%zu,%zu,%zu%s: experts, hidden, intermediate, experts a token; %s routing\n",
           shape->name ? shape->name : "", shape->name ? " (" : "", shape->experts, shape->hidden, shape->intermediate,
           shape->top_k, shape->name ? ")" : "", synthetic_routing_names[bench->options->routing]);
    printf("%s: reads %.1f GB/s, copies %.1f GB/s, %.0f GFLOP/s in fp32, %.0f in bf16\n\n",
           device_title(title, &bench->device), 1e-9 * bench->limits.read_bytes_per_second,
           1e-9 * bench->limits.copy_bytes_per_second, 1e-9 * bench->limits.fp32_flops,
           1e-9 * bench->limits.bf16_flops);
}

/* Every pair of types. */
static enum outcome bench_all(struct bench *bench, struct fault *fault)
{
    const struct bench_options *options = bench->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    for (size_t d = 0; d < options->dtypes.count; d++) {
        moecl_type dtype = options->dtypes.items[d];
        if (options->activations.count == 0)
            TRY(bench_types(bench, dtype, dtype, fault));
        for (size_t a = 0; a < options->activations.count; a++)
            TRY(bench_types(bench, dtype, options->activations.items[a], fault));
    }
out:
    return outcome;
}

static const struct column columns[] = {{"tokens", true, 7},   {"weights", false, 0}, {"activations", false, 0},
                                        {"variant", false, 8}, {"ms", true, 10},      {"10 % to 90 %", true, 20},
                                        {"GFLOP/s", true, 8},  {"GB/s", true, 6},     {"of limit", true, 0}};

static enum outcome run_bench(const void *given, struct fault *fault)
{
    const struct bench_options *options = given;
    struct bench bench = {.options = options,
                          .variants = options->variants,
                          .table = table_begin(columns, sizeof(columns) / sizeof(columns[0]))};
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(check_options(options, &bench.tokens_max, fault));
    for (size_t i = 0; options->variants.count == 0 && i < OPTION_LIST_CAPACITY && moecl_variant_name(i); i++)
        bench.variants.items[bench.variants.count++] = moecl_variant_name(i);
    TRY_MOECL(bench.context, moecl_context_create(&bench.context));
    TRY_MOECL(bench.context, moecl_context_open(bench.context, options->common.device));
    TRY_MOECL(bench.context, moecl_device_describe(bench.context, false, &bench.device));
    TRY(check_memory(&bench, fault));
    output_progress("measuring the device's limits");
    TRY_MOECL(bench.context, moecl_measure_limits(bench.context, 0, &bench.limits));
    TRY_MOECL(bench.context, moecl_meter_create(bench.context, &bench.meter));
    output_progress("%s", "");
    if (!options->common.json)
        print_heading(&bench);
    bench.rows = json_array();
    TRY(bench_all(&bench, fault));
    if (options->common.json) {
        json_t *rows = bench.rows;
        bench.rows = NULL;
        TRY(output_json(rows, fault));
    }
out:
    output_progress("%s", "");
    table_end(&bench.table);
    json_decref(bench.rows);
    moecl_meter_destroy(bench.meter);
    moecl_context_destroy(bench.context);
    return outcome;
}

static enum outcome parse_routing(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    return option_word(option, text, synthetic_routing_names, destination, fault);
}

#define DESTINATION(member) offsetof(struct bench_options, member)
static const struct option table[] = {
    {"shape", "SHAPE", shape_parse, DESTINATION(shape), false,
     "sizes E,H,I,k, or those of a model (default: granite-1b-a400m):\n" SHAPE_NAMES_HELP},
    {"tokens", "LIST", option_sizes, DESTINATION(tokens), false, "numbers of tokens (default: 1,8,64,512)"},
    {"dtype", "LIST", option_types, DESTINATION(dtypes), false,
     "storage of the weights: f32, f16, bf16 (default: bf16)"},
    {"activations", "LIST", option_types, DESTINATION(activations), false,
     "type of x and y (default: the weights' type)"},
    {"variant", "LIST", option_variants, DESTINATION(variants), false, "expert-GEMM variants (default: all)"},
    {"routing", "KIND", parse_routing, DESTINATION(routing), false,
     "uniform: all experts as likely (default); zipf: the r-th with a\n"
     "share of 1/r; single: all tokens choose the same experts"},
    {"seconds", "S", option_real, DESTINATION(seconds), false, "time for a variant in a cell (default: 1)"},
    {"seed", "S", option_seed, DESTINATION(seed), false, "seed of weights, activations and routing (default: 1)"},
};
#undef DESTINATION
static const struct bench_options defaults = {.shape = {"granite-1b-a400m", 32, 1024, 512, 8},
                                              .tokens = {4, {1, 8, 64, 512}},
                                              .dtypes = {1, {MOECL_BF16}},
                                              .seconds = 1,
                                              .seed = 1};

const struct command command_bench = {
    .name = "bench",
    .summary = "time a layer's expert block beside the device's own limit",
    .details =
        "The block is gather, gate and up with SwiGLU, down, combine; the routing is given. Times are medians\n"
        "of warm calls. GFLOP/s counts 6*T*k*H*I operations, GB/s the weights of the experts touched. The limit\n"
        "is max(those bytes / read bandwidth, those operations / peak): medians of readings in turn with the\n"
        "calls; the heading has what the device did at its best, before. The peak is that of fp32\n"
        "multiply-adds, or of AMX or AVX512-BF16 for bf16 by bf16 where the device has it.",
    .examples = "  moecl bench\n"
                "  moecl bench --shape olmoe-1b-7b --tokens 1,512 --dtype f32,bf16 --variant tile\n"
                "  moecl bench --shape 64,2048,1024,8 --dtype bf16 --activations f32,bf16 --routing zipf --json",
    .options = table,
    .option_count = sizeof(table) / sizeof(table[0]),
    .defaults = &defaults,
    .size = sizeof(defaults),
    .run = run_bench,
};
