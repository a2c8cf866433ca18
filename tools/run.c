/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - moecl run: one MoE layer of a model on the tokens of a file, its speed, and whether it gives what it should;
 * and how evenly the tokens load the experts, of this layer or of all.
 *
 * Everything that can be refused is refused before the layer is loaded, and output files appear complete or not at
 * all (file.h). */
#include "run.h"

#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "device.h"
#include "heatmap.h"
#include "output.h"

/* The files written; zero where not wanted. */
struct outputs {
    struct output_file y, ids, weights, heatmap;
};

/* ------------------------------------------------------------------------------------------------- reading -- */

/* What goes together, and what does not. */
static enum outcome check_options(const struct run_options *options, struct fault *fault)
{
    const bool one = options->layer != NO_LAYER, all = options->stats || options->heatmap;
    const bool of_one = options->output || options->expect || options->ids || options->weights || options->use_ids;
    enum outcome outcome = OUTCOME_SUCCESS;
    if (!one && (!all || of_one))
        FAIL(OUTCOME_WRONG_USE, "--layer is missing");
    if (one && !options->output)
        FAIL(OUTCOME_WRONG_USE, "--output is missing");
    if (!options->use_ids != !options->use_weights)
        FAIL(OUTCOME_WRONG_USE, "--use-ids and --use-weights go together");
    if (options->use_ids && options->heatmap)
        FAIL(OUTCOME_WRONG_USE, "--use-ids and --heatmap exclude each other");
out:
    return outcome == OUTCOME_SUCCESS ? outcome : fault_hint(fault, outcome, "try 'moecl run --help'");
}

static enum outcome open_model(struct run *run, struct fault *fault)
{
    const struct run_options *options = run->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY_MOECL(run->context, moecl_context_create(&run->context));
    TRY_MOECL(run->context, moecl_model_open(run->context, options->model, options->family, &run->model));
out:
    return outcome;
}

static enum outcome describe_layer(struct run *run, struct fault *fault)
{
    const struct run_options *options = run->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    if (!moecl_model_is_moe(run->model, options->layer)) {
        moecl_model_info info;
        moecl_model_describe(run->model, &info);
        if (options->layer < info.layers)
            fault_set(fault, OUTCOME_WRONG_USE, "layer %zu of %s is dense", options->layer, options->model);
        else
            fault_set(fault, OUTCOME_WRONG_USE, "%s has no layer %zu: its layers are 0 to %zu", options->model,
                      options->layer, info.layers - 1);
        outcome = fault_hint(fault, OUTCOME_WRONG_USE, "'moecl inspect %s' shows its layers", options->model);
        goto out;
    }
    TRY_MOECL(run->context, moecl_model_layer_options(run->model, options->layer, &run->shape));
    run->file_type = run->shape.weights;
    if (options->dtype != OPTION_NO_TYPE)
        run->shape.weights = (moecl_type)options->dtype;
    if (options->activations != OPTION_NO_TYPE)
        run->shape.activations = (moecl_type)options->activations;
    run->shape.variant = options->variant;
    run->slots = moecl_layer_slots(&run->shape);
out:
    return outcome;
}

static enum outcome read_input(struct run *run, struct fault *fault)
{
    const struct run_options *options = run->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    char *path = tokens_path(options->input, options->layer);
    if (!path) {
        outcome = fault_memory(fault, "a path");
        goto out;
    }
    /* The caller's own routing needs no token ids. */
    moecl_layer_options shape = run->shape;
    if (options->use_ids)
        shape.router.selection = MOECL_SELECTION_TOP_K;
    TRY(tokens_read(&run->tokens, path, options->token_ids, &shape, fault));
    if (options->use_ids)
        TRY(given_routing_read(&run->given, options->use_ids, options->use_weights, run->tokens.count, &run->shape,
                               fault));
    if (options->expect) {
        TRY(tokens_read_rows(options->expect, run->shape.hidden, &run->expected, fault));
        if (run->expected.shape[0] != run->tokens.count)
            FAIL(OUTCOME_ERROR, "%s has %zu tokens, and %s has %zu", options->expect, run->expected.shape[0], path,
                 run->tokens.count);
    }
out:
    free(path);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- writing -- */

static enum outcome open_outputs(const struct run_options *options, struct outputs *outputs, struct fault *fault)
{
    const struct {
        struct output_file *file;
        const char *path;
    } wanted[] = {{&outputs->y, options->output},
                  {&outputs->ids, options->ids},
                  {&outputs->weights, options->weights},
                  {&outputs->heatmap, options->heatmap}};
    enum outcome outcome = OUTCOME_SUCCESS;
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < i; j++) {
            if (wanted[i].path && wanted[j].path && strcmp(wanted[i].path, wanted[j].path) == 0)
                FAIL(OUTCOME_WRONG_USE, "two outputs go to the same file, %s", wanted[i].path);
        }
        if (wanted[i].path)
            TRY(output_file_open(wanted[i].file, wanted[i].path, fault));
    }
out:
    return outcome;
}

/* Writes all files before the first of them appears. */
static enum outcome write_outputs(const struct run *run, struct outputs *outputs, struct fault *fault)
{
    const struct run_options *options = run->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    const size_t y_shape[] = {run->tokens.count, run->shape.hidden}, routing_shape[] = {run->tokens.count, run->slots};
    if (options->output)
        TRY(npy_write(&outputs->y, NPY_F4, 2, y_shape, run->y, fault));
    if (options->ids)
        TRY(npy_write(&outputs->ids, NPY_I4, 2, routing_shape, run->ids, fault));
    if (options->weights)
        TRY(npy_write(&outputs->weights, NPY_F4, 2, routing_shape, run->weights, fault));
    if (options->heatmap)
        TRY(heatmap_write(&outputs->heatmap, options->model, &run->survey, fault));
    struct output_file *const files[] = {&outputs->y, &outputs->ids, &outputs->weights, &outputs->heatmap};
    for (size_t i = 0; i < 4; i++) {
        if (files[i]->stream)
            TRY(output_file_commit(files[i], fault));
    }
out:
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- running -- */

static enum outcome load_layer(struct run *run, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t tokens = run->tokens.count, values = tokens * run->shape.hidden, choices = tokens * run->slots;
    size_t activation = moecl_type_size(run->shape.activations);
    output_progress("loading layer %zu", run->options->layer);
    TRY_MOECL(run->context, moecl_layer_load(run->model, run->options->layer, &run->shape, &run->layer));
    run->shape = *moecl_layer_describe(run->layer);

    moecl_forward *forward = &run->forward;
    forward->tokens = tokens;
    forward->routing_given = run->given.ids != NULL;
    TRY(device_buffer_create(run->context, "x", values * activation, run->tokens.rounded, &forward->x, fault));
    TRY(device_buffer_create(run->context, "y", values * activation, NULL, &forward->y, fault));
    TRY(device_buffer_create(run->context, "ids", choices * sizeof(int32_t), run->given.ids, &forward->routing.ids,
                             fault));
    TRY(device_buffer_create(run->context, "routing weights", choices * sizeof(float), run->given.weights.data,
                             &forward->routing.weights, fault));
    if (run->tokens.ids)
        TRY(device_buffer_create(run->context, "token ids", tokens * sizeof(int32_t), run->tokens.ids,
                                 &forward->token_ids, fault));
    TRY_MOECL(run->context, moecl_layer_reserve(run->layer, tokens));
out:
    output_progress("%s", "");
    return outcome;
}

/* A first pass that compiles and warms, then the median of a few (of fewer where one is slow), then one that is timed
 * by stages. */
static enum outcome compute(struct run *run, struct fault *fault)
{
    enum { PASSES_MAX = 5 };
    enum outcome outcome = OUTCOME_SUCCESS;
    double seconds[PASSES_MAX], sum = 0;
    size_t passes = 0;
    TRY_MOECL(run->context, moecl_layer_forward(run->layer, &run->forward, 0, NULL, NULL));
    TRY_MOECL(run->context, moecl_layer_check(run->layer));
    while (passes < PASSES_MAX && sum < 1) {
        double start = clock_seconds();
        TRY_MOECL(run->context, moecl_layer_forward(run->layer, &run->forward, 0, NULL, NULL));
        TRY(device_finish(run->context, fault));
        seconds[passes] = clock_seconds() - start;
        sum += seconds[passes++];
    }
    run->seconds = clock_quantile(seconds, passes, 0.5);
    TRY_MOECL(run->context, moecl_layer_forward_timed(run->layer, &run->forward, &run->times));
    TRY_MOECL(run->context, moecl_layer_check(run->layer));
out:
    return outcome;
}

static enum outcome read_results(struct run *run, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    size_t values = run->tokens.count * run->shape.hidden, choices = run->tokens.count * run->slots;
    moecl_type type = run->shape.activations;
    run->y = calloc(values + 1, sizeof(float));
    run->ids = calloc(choices + 1, sizeof(int32_t));
    run->weights = calloc(choices + 1, sizeof(float));
    if (!run->y || !run->ids || !run->weights) {
        outcome = fault_memory(fault, "the results");
        goto out;
    }
    TRY(device_buffer_read(run->context, "y", run->forward.y, values * moecl_type_size(type), run->tokens.rounded,
                           fault));
    moecl_convert(run->tokens.rounded, type, run->y, MOECL_F32, values);
    TRY(device_buffer_read(run->context, "ids", run->forward.routing.ids, choices * sizeof(int32_t), run->ids, fault));
    TRY(device_buffer_read(run->context, "routing weights", run->forward.routing.weights, choices * sizeof(float),
                           run->weights, fault));
    TRY(statistics_read(&run->statistics, run->context, &run->shape, run->tokens.count, run->forward.routing.ids,
                        fault));
out:
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- command -- */

static void release(struct run *run)
{
    device_buffer_release(&run->forward.x);
    device_buffer_release(&run->forward.y);
    device_buffer_release(&run->forward.routing.ids);
    device_buffer_release(&run->forward.routing.weights);
    device_buffer_release(&run->forward.token_ids);
    moecl_layer_destroy(run->layer);
    moecl_model_close(run->model);
    moecl_context_destroy(run->context);
    tokens_free(&run->tokens);
    npy_free(&run->expected);
    given_routing_free(&run->given);
    statistics_free(&run->statistics);
    survey_free(&run->survey);
    free(run->y);
    free(run->ids);
    free(run->weights);
}

static enum outcome run_layer(struct run *run, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(load_layer(run, fault));
    TRY(compute(run, fault));
    TRY(read_results(run, fault));
    if (run->options->expect)
        report_compare(run);
out:
    return outcome;
}

/* Every layer, where there is no one layer or a picture is wanted. */
static enum outcome run_survey(struct run *run, struct fault *fault)
{
    const struct run_options *options = run->options;
    const moecl_type type = options->activations != OPTION_NO_TYPE ? (moecl_type)options->activations : MOECL_F32;
    if (options->layer != NO_LAYER && !options->heatmap)
        return OUTCOME_SUCCESS;
    return survey_make(&run->survey, run->context, run->model, options->input, options->token_ids, type, fault);
}

static enum outcome run_run(const void *given, struct fault *fault)
{
    const struct run_options *options = given;
    struct run run = {.options = options};
    struct outputs outputs = {.y = {0}};
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY(check_options(options, fault));
    TRY(open_model(&run, fault));
    if (options->layer != NO_LAYER) {
        TRY(describe_layer(&run, fault));
        TRY(read_input(&run, fault));
    }
    TRY(open_outputs(options, &outputs, fault));
    TRY_MOECL(run.context, moecl_context_open(run.context, options->common.device));
    TRY_MOECL(run.context, moecl_device_describe(run.context, false, &run.device));
    TRY(run_survey(&run, fault)); /* first, since it may meet files that cannot be read */
    if (options->layer != NO_LAYER)
        TRY(run_layer(&run, fault));
    TRY(write_outputs(&run, &outputs, fault));
    TRY(options->common.json ? report_json(&run, fault) : report_print(&run, fault));
    if (options->expect && !run.comparison.passed)
        FAIL(OUTCOME_CHECK_FAILED, "y is not what %s says: the error is %.2e, most of it in token %zu, column %zu",
             options->expect, run.comparison.error, run.comparison.token, run.comparison.column);
out:
    output_file_discard(&outputs.y);
    output_file_discard(&outputs.ids);
    output_file_discard(&outputs.weights);
    output_file_discard(&outputs.heatmap);
    release(&run);
    return outcome;
}

#define DESTINATION(member) offsetof(struct run_options, member)
static const struct option table[] = {
    {NULL, "MODEL", option_text, DESTINATION(model), true,
     "a directory with config.json and model.safetensors, or a GGUF file"},
    OPTION_FAMILY(struct run_options),
    {"layer", "N", option_size, DESTINATION(layer), false,
     "the model's layer, as in its tensors' names; may be left out with\n--stats or --heatmap: they then look at all"},
    {"input", "X.npy", option_text, DESTINATION(input), true,
     "x: f4 or f2, [tokens, hidden]; '#' stands for the layer's number"},
    {"output", "Y.npy", option_text, DESTINATION(output), false, "where the layer's y goes: f4, [tokens, hidden]"},
    {"dtype", "TYPE", option_type, DESTINATION(dtype), false,
     "storage of the weights: f32, f16 or bf16 (default: the file's)"},
    {"activations", "TYPE", option_type, DESTINATION(activations), false,
     "type of x and y on the device: f32, f16 or bf16 (default: f32)"},
    {"variant", "NAME", option_variant, DESTINATION(variant), false,
     "expert-GEMM variant (default: the one that the library plans)"},
    {"expect", "Y.npy", option_text, DESTINATION(expect), false, "compare y with this file; exit 1 if it differs"},
    {"tolerance", "R", option_real, DESTINATION(tolerance), false,
     "largest max |y - expected| / max |expected| (default: see below)"},
    {"ids", "IDS.npy", option_text, DESTINATION(ids), false, "write the experts chosen: i4, [tokens, k]; -1: none"},
    {"weights", "W.npy", option_text, DESTINATION(weights), false, "write their routing weights: f4, [tokens, k]"},
    {"token-ids", "T.npy", option_text, DESTINATION(token_ids), false,
     "the tokens' ids: i4 or i8, [tokens]; for layers that route by them"},
    {"use-ids", "IDS.npy", option_text, DESTINATION(use_ids), false,
     "route so instead of by the router: i4 or i8, [tokens, k]; -1: none"},
    {"use-weights", "W.npy", option_text, DESTINATION(use_weights), false, "with these weights: f4 or f2, [tokens, k]"},
    {"stats", NULL, option_flag, DESTINATION(stats), false, "show how evenly the experts are loaded"},
    {"heatmap", "OUT.svg", option_text, DESTINATION(heatmap), false,
     "draw the load of every expert of every MoE layer"},
};
#undef DESTINATION
static const struct run_options defaults = {
    .layer = NO_LAYER, .dtype = OPTION_NO_TYPE, .activations = OPTION_NO_TYPE, .tolerance = -1};

const struct command command_run = {
    .name = "run",
    .summary = "run one MoE layer of a model on tokens from a file",
    .details =
        "The tolerance is 1e-4 where nothing is rounded: f32 activations, weights in the file's type or f32.\n"
        "Where --dtype rounds, it is 2e-3 for f16 and 1.6e-2 for bf16; where --activations does, 2e-2 for f16\n"
        "and 1e-1 for bf16, since rounded activations can also change which experts a token chooses, where\n"
        "two are nearly as likely.\n"
        "Where experts choose their tokens, the routing has a column for each expert instead of k.\n"
        "\n"
        "--stats counts, on the device, the choices that fall on each expert: the mean, the largest, their ratio\n"
        "(1: even), the entropy of the experts' shares (ln of their number: even), the squared coefficient of\n"
        "variation CV^2 (0: even), and the choices dropped for want of room or below a threshold.\n"
        "--heatmap draws the same for the whole model: it loads the router of each MoE layer and routes the\n"
        "layer's input, x of --input for all, or with '#' in its name a file for each layer.",
    .examples = "  moecl run tiny-qwen3-moe --layer 0 --input layer0_x.npy --output y.npy --expect layer0_y.npy\n"
                "  moecl run OLMoE-1B-7B-0924 --layer 3 --input x.npy --output y.npy --dtype bf16 --activations bf16\n"
                "  moecl run Mixtral-8x7B-v0.1 --layer 0 --input x.npy --output y.npy --ids ids.npy --weights w.npy\n"
                "  moecl run OLMoE-1B-7B-0924 --input 'layer#_x.npy' --heatmap load.svg",
    .options = table,
    .option_count = sizeof(table) / sizeof(table[0]),
    .defaults = &defaults,
    .size = sizeof(defaults),
    .run = run_run,
};
