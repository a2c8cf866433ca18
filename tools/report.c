/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what `moecl run` says in the end: for people, as JSON, and whether y is what it should be. */
#include <math.h>

#include "device.h"
#include "load.h"
#include "output.h"
#include "run.h"
#include "shapes.h"

/* How far y may be from what it should be, relative to max |y|, where a type is rounded to. f32 stands for summing in
 * another order. Rounding weights to p bits changes each by up to 2^-p, and y by some times that. Rounding x can
 * besides change which of two nearly equal experts a token chooses, which no small bound covers: the values allow for
 * that in the last of several choices. */
static const struct {
    double weights, activations;
} tolerances[] = {[MOECL_F32] = {1e-4, 1e-4}, [MOECL_F16] = {2e-3, 2e-2}, [MOECL_BF16] = {1.6e-2, 1e-1}};

void report_compare(struct run *run)
{
    struct comparison *result = &run->comparison;
    const float *expected = run->expected.data;
    double largest = 0, difference = 0;
    for (size_t i = 0; i < run->expected.count; i++) {
        double distance = fabs((double)run->y[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        if (distance > difference || isnan(distance)) {
            difference = isnan(distance) ? INFINITY : distance;
            result->token = i / run->shape.hidden;
            result->column = i % run->shape.hidden;
        }
    }
    bool weights_rounded = run->shape.weights != run->file_type && run->shape.weights != MOECL_F32;
    double tolerance = tolerances[run->shape.activations].activations;
    if (weights_rounded)
        tolerance = fmax(tolerance, tolerances[run->shape.weights].weights);
    result->tolerance = run->options->tolerance >= 0 ? run->options->tolerance : tolerance;
    result->error = difference == 0 ? 0 : difference / largest;
    result->passed = result->error <= result->tolerance;
}

/* ------------------------------------------------------------------------------------------------ printing -- */

static void print_load(const struct run *run)
{
    const moecl_load_statistics *figures = &run->statistics.figures;
    printf("\nTokens of each expert: mean %.3g, most %u", (double)figures->mean, (unsigned)figures->largest);
    if (figures->idle > 0)
        printf(", none for %u", (unsigned)figures->idle);
    if (statistics_dropped(&run->statistics) > 0)
        printf("; %u choices dropped", (unsigned)statistics_dropped(&run->statistics));
    printf("\n");
    load_print(run->statistics.load, run->statistics.outputs);
}

static bool has_stage(const struct run *run, int stage)
{
    return stage != MOECL_STAGE_SHARED || run->shape.shared_intermediate > 0;
}

static void print_stages(const struct run *run)
{
    double sum = 0;
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++)
        sum += run->times.seconds[stage];
    printf("\nTime of each stage, each waited for\n");
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
        double seconds = run->times.seconds[stage];
        if (!has_stage(run, stage))
            continue;
        printf("  %-14s%10.3f ms  ", moecl_stage_name((moecl_stage)stage), 1e3 * seconds);
        double share = sum > 0 ? seconds / sum : 0;
        output_bar(share, 24);
        printf(" %3.0f %%\n", 100 * share);
    }
}

static void print_layer(const struct run *run)
{
    char text[SHAPE_TEXT], title[DEVICE_TEXT], number[OUTPUT_TEXT];
    struct style style = output_style(stdout);
    const struct run_options *options = run->options;
    printf("%s%s, layer %zu%s\n", style.bold, options->model, options->layer, style.reset);
    printf("  layer    %s\n", shape_describe(text, &run->shape));
    printf("  device   %s\n", device_title(title, &run->device));
    printf("  types    weights %s (%s), activations %s; variant %s\n", moecl_type_name(run->shape.weights),
           output_bytes(number, (double)moecl_layer_weight_bytes(run->layer)), moecl_type_name(run->shape.activations),
           run->shape.variant);
    print_load(run);
    print_stages(run);

    printf("\n%s%s tokens in %.3f ms, ", style.bold, output_integer(number, run->tokens.count), 1e3 * run->seconds);
    printf("%s tokens/s%s\n", output_integer(number, (uint64_t)((double)run->tokens.count / run->seconds)),
           style.reset);
    if (options->expect) {
        const struct comparison *result = &run->comparison;
        printf("max |y - expected| / max |expected| = %.2e, tolerance %.0e: %s%s%s\n", result->error, result->tolerance,
               result->passed ? style.good : style.bad, result->passed ? "ok" : "TOO LARGE", style.reset);
    }
}

enum outcome report_print(const struct run *run, struct fault *fault)
{
    const struct run_options *options = run->options;
    const char *const written[] = {options->output, options->ids, options->weights, options->heatmap};
    enum outcome outcome = OUTCOME_SUCCESS;
    const char *before = "wrote ";
    if (run->layer) {
        print_layer(run);
        if (options->stats)
            TRY(statistics_print(&run->statistics, fault));
    }
    if (run->survey.count > 0) {
        printf("%sRouting of every MoE layer of %s\n\n", run->layer ? "\n" : "", options->model);
        TRY(survey_print(&run->survey, fault));
    }
    for (size_t i = 0; i < 4; i++) {
        if (written[i]) {
            printf("%s%s", before, written[i]);
            before = ", ";
        }
    }
    if (*before == ',')
        printf("\n");
out:
    return outcome;
}

static json_t *layer_json(const struct run *run)
{
    char title[DEVICE_TEXT];
    json_t *load = statistics_load_json(&run->statistics), *stages = json_object();
    for (int stage = 0; stage < MOECL_STAGE_COUNT; stage++) {
        if (has_stage(run, stage))
            json_object_set_new(stages, moecl_stage_name((moecl_stage)stage),
                                output_number(1e3 * run->times.seconds[stage]));
    }
    json_t *json =
        json_pack("{s:o, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o}", "model",
                  output_string(run->options->model), "layer", (json_int_t)run->options->layer, "device",
                  output_string(device_title(title, &run->device)), "experts", (json_int_t)run->shape.experts, "hidden",
                  (json_int_t)run->shape.hidden, "intermediate", (json_int_t)run->shape.intermediate, "top_k",
                  (json_int_t)run->shape.top_k, "tokens", (json_int_t)run->tokens.count, "dtype",
                  moecl_type_name(run->shape.weights), "activations", moecl_type_name(run->shape.activations),
                  "variant", run->shape.variant, "weight_bytes", (json_int_t)moecl_layer_weight_bytes(run->layer),
                  "milliseconds", output_number(1e3 * run->seconds), "tokens_per_second",
                  output_number((double)run->tokens.count / run->seconds), "load", load, "stages_milliseconds", stages);
    if (json && run->options->expect) {
        const struct comparison *result = &run->comparison;
        json_object_set_new(json, "expected",
                            json_pack("{s:o, s:o, s:b, s:I, s:I}", "error", output_number(result->error), "tolerance",
                                      output_number(result->tolerance), "passed", (int)result->passed, "token",
                                      (json_int_t)result->token, "column", (json_int_t)result->column));
    }
    if (json && run->options->stats)
        json_object_set_new(json, "statistics", statistics_json(&run->statistics));
    return json;
}

enum outcome report_json(const struct run *run, struct fault *fault)
{
    char title[DEVICE_TEXT];
    json_t *json = run->layer ? layer_json(run)
                              : json_pack("{s:o, s:o}", "model", output_string(run->options->model), "device",
                                          output_string(device_title(title, &run->device)));
    if (json && run->survey.count > 0)
        json_object_set_new(json, "layers", survey_json(&run->survey));
    return output_json(json, fault);
}
