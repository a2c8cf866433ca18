/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - moecl verify: layers on the device against the double-precision reference; of a model, of a shape with
 * synthetic weights, or of many random layers. */
#include <stdlib.h>
#include <string.h>

#include <moecl/model.h>
#include <moecl/reference.h>

#include "command.h"
#include "descriptor.h"
#include "device.h"
#include "grammar.h"
#include "output.h"
#include "shapes.h"
#include "synthetic.h"
#include "weights.h"

enum { TOKENS_DEFAULT = 64, RANDOM_DEFAULT = 10 };

struct verify_options {
    struct common_options common;
    const char *model, *family;
    size_t layer;       /* SIZE_MAX: not given, as for the others */
    struct shape shape; /* experts 0: not given */
    size_t tokens, random;
    uint64_t seed;
    int dtype, activations;
    const char *variant;
    int method; /* a moecl_verify_method */
    bool small;
};

/* What one check is about; the weights are given or made. */
struct subject {
    moecl_layer_options layer; /* its variant is the check's */
    size_t tokens;
    uint64_t seed;
    moecl_type given; /* type that synthetic weights are made in */
};

/* The checks of one command. */
struct verification {
    const struct verify_options *options;
    moecl_context *context;
    moecl_device_info device;
    moecl_model *model; /* NULL: synthetic weights */
    struct table table;
    json_t *checks;
    size_t passed, failed, unsupported;
    uint64_t first_failure; /* seed */
};

/* ------------------------------------------------------------------------------------------------- reports -- */

static void result_text(const moecl_verify_report *report, char *text, size_t capacity)
{
    if (!report->passed && report->id_mismatches > 0)
        snprintf(text, capacity, "FAILED: other experts for %zu tokens", report->id_mismatches);
    else if (!report->passed)
        snprintf(text, capacity, "FAILED: %s%s", report->deterministic ? "" : "not deterministic; ", report->worst);
    else if (report->near_ties > 0)
        snprintf(text, capacity, "ok, %zu near-ties", report->near_ties);
    else
        snprintf(text, capacity, "ok");
}

static const char *const method_names[] = {"auto", "full", "project", NULL};

/* What the layer is, in words: two cells. */
static void add_words(struct table *table, const moecl_layer_options *layer)
{
    char router[GRAMMAR_TEXT], function[GRAMMAR_TEXT], surroundings[GRAMMAR_TEXT];
    table_cell(table, "%s", grammar_router(router, layer));
    grammar_surroundings(surroundings, layer);
    table_cell(table, "%s%s%s", grammar_function(function, &layer->function), surroundings[0] ? "; " : "",
               surroundings);
}

/* One row; `report` NULL: the variant does not serve this layer. */
static void add_row(struct table *table, const struct subject *subject, const moecl_verify_report *report)
{
    const moecl_layer_options *layer = &subject->layer;
    char result[256];
    table_cell(table, "%llu", (unsigned long long)subject->seed);
    table_cell(table, "%zu,%zu,%zu,%zu", layer->experts, layer->hidden, layer->intermediate, layer->top_k);
    table_cell(table, "%zu", subject->tokens);
    table_cell(table, "%s", moecl_type_name(layer->weights));
    table_cell(table, "%s", moecl_type_name(layer->activations));
    table_cell(table, "%s", layer->variant);
    if (!report) {
        for (int i = 0; i < 3; i++)
            table_cell(table, "-");
        table_cell(table, "not served by this variant");
        add_words(table, layer);
        return;
    }
    result_text(report, result, sizeof(result));
    table_cell(table, "%s", method_names[report->method]);
    table_cell(table, "%.1e", report->max_error);
    table_cell(table, "%.1e", report->tolerance);
    table_cell(table, "%s", result);
    add_words(table, layer);
}

/* Every option of the layer but its sizes and types. */
static void describe_layer(json_t *json, const moecl_layer_options *layer)
{
    json_object_set_new(json, "router", grammar_router_json(&layer->router));
    json_object_set_new(json, "function", grammar_function_json(&layer->function));
    json_object_set_new(json, "shared_function", grammar_function_json(&layer->shared_function));
    json_object_set_new(json, "shared_gate",
                        json_string(moecl_choice_name(MOECL_CHOICE_SHARED_GATE, (int)layer->shared_gate)));
    json_object_set_new(json, "shared_scale", output_number((double)layer->shared_scale));
    json_object_set_new(json, "router_input", grammar_input_json(&layer->router_input));
    json_object_set_new(json, "expert_input", grammar_input_json(&layer->expert_input));
    json_object_set_new(json, "latent", json_integer((json_int_t)layer->latent));
    json_object_set_new(json, "output_biased", json_boolean(layer->output_biased));
}

static json_t *check_json(const struct subject *subject, const moecl_verify_report *report)
{
    const moecl_layer_options *layer = &subject->layer;
    json_t *json = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s}", "seed",
                             (json_int_t)subject->seed, "experts", (json_int_t)layer->experts, "hidden",
                             (json_int_t)layer->hidden, "intermediate", (json_int_t)layer->intermediate, "top_k",
                             (json_int_t)layer->top_k, "shared_intermediate", (json_int_t)layer->shared_intermediate,
                             "tokens", (json_int_t)subject->tokens, "dtype", moecl_type_name(layer->weights),
                             "activations", moecl_type_name(layer->activations), "variant", layer->variant, "result",
                             !report          ? "unsupported"
                             : report->passed ? "passed"
                                              : "failed");
    if (json)
        describe_layer(json, layer);
    if (json && report) {
        json_object_set_new(json, "method", json_string(method_names[report->method]));
        json_object_set_new(json, "max_error", output_number(report->max_error));
        json_object_set_new(json, "tolerance", output_number(report->tolerance));
        json_object_set_new(json, "id_mismatches", json_integer((json_int_t)report->id_mismatches));
        json_object_set_new(json, "near_ties", json_integer((json_int_t)report->near_ties));
        json_object_set_new(json, "deterministic", json_boolean(report->deterministic));
        json_object_set_new(json, "worst", json_string(report->worst));
    }
    return json;
}

static enum outcome record(struct verification *all, const struct subject *subject, const moecl_verify_report *report,
                           struct fault *fault)
{
    if (!report)
        all->unsupported++;
    else if (report->passed)
        all->passed++;
    else if (all->failed++ == 0)
        all->first_failure = subject->seed;
    output_progress("%s", "");
    if (all->options->common.json) {
        json_array_append_new(all->checks, check_json(subject, report));
        return OUTCOME_SUCCESS;
    }
    add_row(&all->table, subject, report);
    return table_print(&all->table, fault);
}

/* -------------------------------------------------------------------------------------------------- checks -- */

/* Makes the layer of the subject with its weights; MOECL_UNSUPPORTED is the caller's to look at. */
static moecl_status make_layer(struct verification *all, const struct subject *subject,
                               const moecl_layer_weights *weights, moecl_layer **layer)
{
    if (all->model)
        return moecl_layer_load(all->model, all->options->layer, &subject->layer, layer);
    moecl_status status = moecl_layer_create(all->context, &subject->layer, layer);
    return status == MOECL_OK ? moecl_layer_set_weights(*layer, weights) : status;
}

static enum outcome check_variant(struct verification *all, const struct subject *subject,
                                  const moecl_layer_weights *weights, const float *x, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_layer *layer = NULL;
    moecl_verify_report report;
    output_progress("checking %zu,%zu,%zu,%zu with %s", subject->layer.experts, subject->layer.hidden,
                    subject->layer.intermediate, subject->layer.top_k, subject->layer.variant);
    moecl_status status = make_layer(all, subject, weights, &layer);
    if (status == MOECL_UNSUPPORTED) {
        TRY(record(all, subject, NULL, fault));
        goto out;
    }
    TRY_MOECL(all->context, status);
    TRY_MOECL(all->context, moecl_verify(all->context, layer, weights, subject->tokens, x,
                                         (moecl_verify_method)all->options->method, subject->seed, &report));
    TRY(record(all, subject, &report, fault));
out:
    moecl_layer_destroy(layer);
    output_progress("%s", "");
    return outcome;
}

/* Checks the subject with the variant that the user named, else with each. */
static enum outcome check_subject(struct verification *all, struct subject *subject, const moecl_layer_weights *given,
                                  struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    const moecl_layer_options *layer = &subject->layer;
    struct weights made = {.memory = NULL};
    char shape[SHAPE_TEXT];
    float *x = NULL;
    size_t count = subject->tokens * layer->hidden;
    double host = (given ? 0 : weights_bytes(layer, subject->given)) + (double)count * sizeof(float);
    TRY(device_require_memory(&all->device, shape_describe(shape, layer), shape_cost(layer).weight_bytes, host, fault));
    x = malloc(count * sizeof(float) + 1);
    if (!x) {
        outcome = fault_memory(fault, "the activations");
        goto out;
    }
    synthetic_activations(synthetic_seed(subject->seed, SIZE_MAX), x, count);
    if (!given)
        TRY(weights_make(&made, layer, subject->given, subject->seed, fault));
    for (size_t i = 0; moecl_variant_name(i); i++) {
        subject->layer.variant = moecl_variant_name(i);
        if (!all->options->variant || strcmp(all->options->variant, subject->layer.variant) == 0)
            TRY(check_variant(all, subject, given ? given : &made.layer, x, fault));
    }
out:
    weights_free(&made);
    free(x);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------ subjects -- */

static void apply_types(const struct verify_options *options, moecl_layer_options *layer)
{
    if (options->dtype != OPTION_NO_TYPE)
        layer->weights = (moecl_type)options->dtype;
    if (options->activations != OPTION_NO_TYPE)
        layer->activations = (moecl_type)options->activations;
}

static enum outcome verify_model(struct verification *all, struct fault *fault)
{
    const struct verify_options *options = all->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_layer_weights weights = {.experts = NULL};
    struct subject subject = {.tokens = options->tokens, .seed = options->seed};
    TRY_MOECL(all->context, moecl_model_open(all->context, options->model, options->family, &all->model));
    TRY_MOECL(all->context, moecl_model_layer_options(all->model, options->layer, &subject.layer));
    TRY_MOECL(all->context, moecl_model_weights(all->model, options->layer, &weights));
    apply_types(options, &subject.layer);
    TRY(check_subject(all, &subject, &weights, fault));
out:
    moecl_model_weights_free(&weights);
    return outcome;
}

static enum outcome verify_shape(struct verification *all, struct fault *fault)
{
    const struct shape *shape = &all->options->shape;
    struct subject subject = {.tokens = all->options->tokens, .seed = all->options->seed};
    subject.layer = (moecl_layer_options){.experts = shape->experts,
                                          .hidden = shape->hidden,
                                          .intermediate = shape->intermediate,
                                          .top_k = shape->top_k,
                                          .router.normalisation = MOECL_NORMALISATION_SUM};
    apply_types(all->options, &subject.layer);
    subject.given = subject.layer.weights;
    return check_subject(all, &subject, NULL, fault);
}

/* The random layer of a seed: sizes over all scales, mixed types, every option now and then. */
static struct subject random_subject(const struct verify_options *options, uint64_t seed)
{
    static const struct descriptor_limits limits[] = {{256, 2100, 1500, 1 << 25}, {32, 96, 96, 1 << 17}};
    static const size_t most_tokens[] = {600, 40};
    const uint64_t key = synthetic_seed(seed, 1);
    struct subject subject = {.seed = seed, .layer = descriptor_draw(seed, &limits[options->small])};
    subject.given = (moecl_type)synthetic_between(key, 0, MOECL_F32, MOECL_BF16);
    subject.tokens = synthetic_between_scales(key, 1, 1, most_tokens[options->small] + 1) - 1;
    if (options->tokens != SIZE_MAX)
        subject.tokens = options->tokens;
    apply_types(options, &subject.layer);
    return subject;
}

static enum outcome verify_random(struct verification *all, struct fault *fault)
{
    const struct verify_options *options = all->options;
    enum outcome outcome = OUTCOME_SUCCESS;
    for (size_t i = 0; i < options->random && outcome == OUTCOME_SUCCESS; i++) {
        struct subject subject = random_subject(options, options->seed + i);
        outcome = check_subject(all, &subject, NULL, fault);
        if (outcome != OUTCOME_SUCCESS)
            fault_hint(fault, outcome, "'moecl verify --random 1 --seed %llu%s' repeats it",
                       (unsigned long long)subject.seed, options->small ? " --small" : "");
    }
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- command -- */

static enum outcome check_options(struct verify_options *options, struct fault *fault)
{
    int sources = (options->model != NULL) + (options->shape.experts > 0) + (options->random != SIZE_MAX);
    enum outcome outcome = OUTCOME_SUCCESS;
    if (sources > 1)
        FAIL(OUTCOME_WRONG_USE, "MODEL, --shape and --random exclude each other");
    if ((options->model != NULL) != (options->layer != SIZE_MAX))
        FAIL(OUTCOME_WRONG_USE, "MODEL and --layer go together");
    if (options->family && !options->model)
        FAIL(OUTCOME_WRONG_USE, "--family is for a MODEL");
    if (sources == 0)
        options->random = RANDOM_DEFAULT;
    bool random = options->random != SIZE_MAX;
    if (options->random == 0)
        FAIL(OUTCOME_WRONG_USE, "--random 0 checks nothing");
    if (options->small && !random)
        FAIL(OUTCOME_WRONG_USE, "--small is for random layers");
    if (options->tokens == SIZE_MAX && !random)
        options->tokens = TOKENS_DEFAULT;
    if (options->tokens != SIZE_MAX && options->tokens > MOECL_MAX_TOKENS)
        FAIL(OUTCOME_WRONG_USE, "--tokens may be at most %d", MOECL_MAX_TOKENS);
out:
    return outcome;
}

static enum outcome print_summary(struct verification *all, struct fault *fault)
{
    char title[DEVICE_TEXT];
    struct style style = output_style(stdout);
    size_t checks = all->passed + all->failed;
    device_title(title, &all->device);
    if (all->options->common.json) {
        json_t *json =
            json_pack("{s:o, s:I, s:I, s:I, s:I, s:o}", "device", output_string(title), "seed",
                      (json_int_t)all->options->seed, "passed", (json_int_t)all->passed, "failed",
                      (json_int_t)all->failed, "unsupported", (json_int_t)all->unsupported, "checks", all->checks);
        all->checks = NULL;
        return output_json(json, fault);
    }
    printf("\n%s%zu of %zu checks passed%s", all->failed ? style.bad : style.good, all->passed, checks, style.reset);
    if (all->unsupported > 0)
        printf(", %zu not served by the variant", all->unsupported);
    printf(", seed %llu, on %s\n", (unsigned long long)all->options->seed, title);
    return OUTCOME_SUCCESS;
}

static const struct column columns[] = {{"seed", true, 0},     {"E,H,I,k", false, 16},    {"tokens", true, 0},
                                        {"weights", false, 0}, {"activations", false, 0}, {"variant", false, 7},
                                        {"method", false, 7},  {"error", true, 7},        {"tolerance", true, 0},
                                        {"result", false, 8},  {"router", false, 0},      {"experts", false, 0}};

static enum outcome run_verify(const void *given, struct fault *fault)
{
    struct verify_options options = *(const struct verify_options *)given;
    struct verification all = {.options = &options, .table = table_begin(columns, sizeof(columns) / sizeof(*columns))};
    enum outcome outcome = check_options(&options, fault);
    if (outcome != OUTCOME_SUCCESS)
        return fault_hint(fault, outcome, "try 'moecl verify --help'");
    all.checks = json_array();
    TRY_MOECL(all.context, moecl_context_create(&all.context));
    TRY_MOECL(all.context, moecl_context_open(all.context, options.common.device));
    TRY_MOECL(all.context, moecl_device_describe(all.context, false, &all.device));
    if (options.model)
        TRY(verify_model(&all, fault));
    else if (options.shape.experts > 0)
        TRY(verify_shape(&all, fault));
    else
        TRY(verify_random(&all, fault));
    TRY(print_summary(&all, fault));
    if (all.passed + all.failed == 0)
        FAIL(OUTCOME_ERROR, "nothing was checked: no variant serves this layer");
    if (all.failed > 0) {
        fault_set(fault, OUTCOME_CHECK_FAILED, "%zu of %zu checks failed", all.failed, all.passed + all.failed);
        outcome = OUTCOME_CHECK_FAILED;
        if (options.random != SIZE_MAX)
            fault_hint(fault, outcome, "'moecl verify --random 1 --seed %llu%s' repeats the first",
                       (unsigned long long)all.first_failure, options.small ? " --small" : "");
    }
out:
    table_end(&all.table);
    json_decref(all.checks);
    moecl_model_close(all.model);
    moecl_context_destroy(all.context);
    return outcome;
}

static enum outcome parse_method(const struct option *option, const char *text, void *destination, struct fault *fault)
{
    return option_word(option, text, method_names, destination, fault);
}

#define DESTINATION(member) offsetof(struct verify_options, member)
static const struct option table[] = {
    {NULL, "MODEL", option_text, DESTINATION(model), false,
     "a directory with config.json and model.safetensors, or a GGUF file"},
    OPTION_FAMILY(struct verify_options),
    {"layer", "N", option_size, DESTINATION(layer), false, "the model's layer, as in its tensors' names"},
    {"shape", "SHAPE", shape_parse, DESTINATION(shape), false,
     "synthetic weights of the sizes E,H,I,k, or of a model:\n" SHAPE_NAMES_HELP},
    {"random", "COUNT", option_size, DESTINATION(random), false,
     "so many random layers (default, without MODEL and --shape: 10)"},
    {"small", NULL, option_flag, DESTINATION(small), false, "only tiny random layers, for slow devices"},
    {"tokens", "T", option_size, DESTINATION(tokens), false, "tokens (default: 64; random with --random)"},
    {"seed", "S", option_seed, DESTINATION(seed), false, "seed of all that is made (default: 1)"},
    {"dtype", "TYPE", option_type, DESTINATION(dtype), false,
     "storage of the weights: f32, f16 or bf16 (default: the file's;\nf32; random with --random)"},
    {"activations", "TYPE", option_type, DESTINATION(activations), false,
     "type of x and y on the device (default: f32; random with --random)"},
    {"variant", "NAME", option_variant, DESTINATION(variant), false, "only this expert-GEMM variant (default: each)"},
    {"method", "NAME", parse_method, DESTINATION(method), false,
     "full: every output; project: each stage by random projection,\nin O(n^2); auto: full while that is cheap"},
};
#undef DESTINATION
static const struct verify_options defaults = {.layer = SIZE_MAX,
                                               .tokens = SIZE_MAX,
                                               .random = SIZE_MAX,
                                               .seed = 1,
                                               .dtype = OPTION_NO_TYPE,
                                               .activations = OPTION_NO_TYPE};

const struct command command_verify = {
    .name = "verify",
    .summary = "check layers on the device against the double-precision reference",
    .details = "Each row is a check: expert ids must be the reference's (but for ties closer than fp32 can tell), y\n"
               "within the tolerance, and a second pass must give the same bits. Random layer i is made of seed S+i,\n"
               "so '--random 1 --seed S+i' repeats it. Exit status 1 tells that a check failed.",
    .examples = "  moecl verify\n"
                "  moecl verify --random 200 --seed 7\n"
                "  moecl verify tiny-qwen3-moe --layer 0 --tokens 256\n"
                "  moecl verify --shape olmoe-1b-7b --dtype bf16 --tokens 512 --variant tile",
    .options = table,
    .option_count = sizeof(table) / sizeof(table[0]),
    .defaults = &defaults,
    .size = sizeof(defaults),
    .run = run_verify,
};
