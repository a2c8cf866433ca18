/* SPDX-License-Identifier: Apache-2.0 */
/* inspect.c - moecl inspect: what MoE layers a model has, what they cost, whether they fit the device. */
#include <stdlib.h>
#include <string.h>

#include <moecl/model.h>

#include "command.h"
#include "device.h"
#include "grammar.h"
#include "output.h"
#include "shapes.h"

struct inspect_options {
    struct common_options common;
    const char *model, *family;
};

/* Consecutive layers that are alike. */
struct run_of_layers {
    size_t first, last;
    bool moe;
    moecl_layer_options options; /* where moe */
};

struct inspection {
    moecl_model_info info;
    struct run_of_layers *runs;
    size_t run_count;
    size_t moe_layers;
    double largest_layer, all_layers; /* bytes of weights on the device */
    bool has_device;
    moecl_device_info device;
    char no_device[2560]; /* why there is none */
};

static bool alike(const struct run_of_layers *a, const struct run_of_layers *b)
{
    return a->moe == b->moe && (!a->moe || grammar_same(&a->options, &b->options));
}

static enum outcome read_layers(moecl_context *context, moecl_model *model, struct inspection *inspection,
                                struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_model_describe(model, &inspection->info);
    inspection->runs = calloc(inspection->info.layers + 1, sizeof(*inspection->runs));
    if (!inspection->runs) {
        outcome = fault_memory(fault, "the list of layers");
        goto out;
    }
    for (size_t n = 0; n < inspection->info.layers; n++) {
        struct run_of_layers layer = {.first = n, .last = n, .moe = moecl_model_is_moe(model, n)};
        if (layer.moe) {
            TRY_MOECL(context, moecl_model_layer_options(model, n, &layer.options));
            double bytes = shape_cost(&layer.options).weight_bytes;
            inspection->moe_layers++;
            inspection->all_layers += bytes;
            if (bytes > inspection->largest_layer)
                inspection->largest_layer = bytes;
        }
        struct run_of_layers *previous =
            inspection->run_count > 0 ? &inspection->runs[inspection->run_count - 1] : NULL;
        if (previous && alike(previous, &layer))
            previous->last = n;
        else
            inspection->runs[inspection->run_count++] = layer;
    }
out:
    return outcome;
}

/* A device that the user named must be there; the default one may be missing. */
static enum outcome find_device(moecl_context *context, const char *device, struct inspection *inspection,
                                struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    TRY_MOECL(context, moecl_context_open(context, device));
    TRY_MOECL(context, moecl_device_describe(context, false, &inspection->device));
    inspection->has_device = true;
out:
    if (outcome == OUTCOME_SUCCESS || device)
        return outcome;
    snprintf(inspection->no_device, sizeof(inspection->no_device), "%s", fault->sentence);
    return fault_set(fault, OUTCOME_SUCCESS, "%s", "");
}

static void print_fit(const struct inspection *inspection)
{
    char title[DEVICE_TEXT], has[OUTPUT_TEXT], largest[OUTPUT_TEXT], all[OUTPUT_TEXT];
    if (!inspection->has_device) {
        printf("\ndevice   none: %s\n", inspection->no_device);
        return;
    }
    double available = (double)device_available_memory(&inspection->device);
    printf("\ndevice   %s, %s\n", device_title(title, &inspection->device), output_bytes(has, available));
    if (inspection->moe_layers == 0)
        return;
    printf("fits     one layer (%s): %s", output_bytes(largest, inspection->largest_layer),
           inspection->largest_layer <= available ? "yes" : "no");
    if (inspection->moe_layers > 1)
        printf("; all %zu together (%s): %s", inspection->moe_layers, output_bytes(all, inspection->all_layers),
               inspection->all_layers <= available ? "yes" : "no");
    printf("\n");
}

static void print_shared_expert(const moecl_layer_options *options)
{
    static const char *const coefficients[] = {
        [MOECL_SHARED_GATE_NONE] = "",
        [MOECL_SHARED_GATE_SIGMOID] = ", times sigmoid(g . x)",
        [MOECL_SHARED_GATE_SOFTMAX] = ", mixed with the routed ones by softmax(g x)",
    };
    char words[GRAMMAR_TEXT];
    if (options->shared_intermediate == 0)
        return;
    printf("  shared      %s, intermediate %zu%s", grammar_function(words, &options->shared_function),
           options->shared_intermediate, coefficients[options->shared_gate]);
    if (options->shared_scale != 0.0F && options->shared_scale != 1.0F)
        printf(", times %g", (double)options->shared_scale);
    printf("\n");
}

static void print_layers(const struct run_of_layers *run)
{
    const moecl_layer_options *options = &run->options;
    struct shape_cost cost = shape_cost(options);
    struct style style = output_style(stdout);
    char number[OUTPUT_TEXT], bytes[OUTPUT_TEXT], flops[OUTPUT_TEXT], words[GRAMMAR_TEXT];
    printf("\n%s%s %zu", style.bold, run->first == run->last ? "layer" : "layers", run->first);
    if (run->first != run->last)
        printf(" to %zu", run->last);
    printf("%s%s\n", style.reset, run->moe ? "" : "  dense");
    if (!run->moe)
        return;
    printf("  router      %s\n", grammar_router(words, options));
    printf("  experts     %s\n", grammar_function(words, &options->function));
    print_shared_expert(options);
    if (grammar_surroundings(words, options)[0])
        printf("  around      %s\n", words);
    printf("  sizes       hidden %zu, intermediate %zu, weights %s\n", options->hidden, options->intermediate,
           moecl_type_name(options->weights));
    printf("  each layer  %s parameters, %s\n", output_amount(number, cost.parameters),
           output_bytes(bytes, cost.weight_bytes));
    printf("  a token     %s parameters, %s, %sFLOP\n", output_amount(number, cost.token_parameters),
           output_bytes(bytes, cost.token_bytes), output_amount(flops, cost.token_flops));
}

static void print_people(const char *path, const struct inspection *inspection)
{
    printf("model    %s\n", path);
    printf("family   %s (model_type %s)\n", inspection->info.family, inspection->info.model_type);
    printf("layers   %zu: %zu MoE, %zu dense\n", inspection->info.layers, inspection->moe_layers,
           inspection->info.layers - inspection->moe_layers);
    for (size_t i = 0; i < inspection->run_count; i++)
        print_layers(&inspection->runs[i]);
    print_fit(inspection);
}

static json_t *layers_json(const struct run_of_layers *run)
{
    const moecl_layer_options *options = &run->options;
    if (!run->moe)
        return json_pack("{s:I, s:I, s:b}", "first", (json_int_t)run->first, "last", (json_int_t)run->last, "moe", 0);
    struct shape_cost cost = shape_cost(options);
    return json_pack("{s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:s, s:f, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:s, s:I, "
                     "s:I, s:I, s:I, "
                     "s:I}",
                     "first", (json_int_t)run->first, "last", (json_int_t)run->last, "moe", 1, "experts",
                     (json_int_t)options->experts, "top_k", (json_int_t)options->top_k, "hidden",
                     (json_int_t)options->hidden, "intermediate", (json_int_t)options->intermediate,
                     "shared_intermediate", (json_int_t)options->shared_intermediate, "shared_gate",
                     moecl_choice_name(MOECL_CHOICE_SHARED_GATE, (int)options->shared_gate), "shared_scale",
                     options->shared_scale == 0.0F ? 1.0 : (double)options->shared_scale, "latent",
                     (json_int_t)options->latent, "output_biased", options->output_biased, "router",
                     grammar_router_json(&options->router), "function", grammar_function_json(&options->function),
                     "shared_function", grammar_function_json(&options->shared_function), "router_input",
                     grammar_input_json(&options->router_input), "expert_input",
                     grammar_input_json(&options->expert_input), "dtype", moecl_type_name(options->weights),
                     "parameters", (json_int_t)cost.parameters, "bytes", (json_int_t)cost.weight_bytes,
                     "parameters_per_token", (json_int_t)cost.token_parameters, "bytes_per_token",
                     (json_int_t)cost.token_bytes, "flops_per_token", (json_int_t)cost.token_flops);
}

static json_t *fit_json(const struct inspection *inspection)
{
    char title[DEVICE_TEXT];
    if (!inspection->has_device)
        return json_null();
    uint64_t available = device_available_memory(&inspection->device);
    return json_pack("{s:o, s:I, s:b, s:b}", "name", output_string(device_title(title, &inspection->device)),
                     "available_memory", (json_int_t)available, "one_layer_fits",
                     inspection->largest_layer <= (double)available, "all_layers_fit",
                     inspection->all_layers <= (double)available);
}

static enum outcome print_json(const char *path, const struct inspection *inspection, struct fault *fault)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < inspection->run_count; i++)
        json_array_append_new(layers, layers_json(&inspection->runs[i]));
    return output_json(json_pack("{s:o, s:s, s:s, s:I, s:I, s:o, s:o}", "model", output_string(path), "model_type",
                                 inspection->info.model_type, "family", inspection->info.family, "layers",
                                 (json_int_t)inspection->info.layers, "moe_layers", (json_int_t)inspection->moe_layers,
                                 "runs", layers, "device", fit_json(inspection)),
                       fault);
}

static enum outcome run_inspect(const void *given, struct fault *fault)
{
    const struct inspect_options *options = given;
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_context *context = NULL;
    moecl_model *model = NULL;
    struct inspection inspection = {.run_count = 0};
    TRY_MOECL(context, moecl_context_create(&context));
    TRY_MOECL(context, moecl_model_open(context, options->model, options->family, &model));
    TRY(read_layers(context, model, &inspection, fault));
    TRY(find_device(context, options->common.device, &inspection, fault));
    if (options->common.json)
        outcome = print_json(options->model, &inspection, fault);
    else
        print_people(options->model, &inspection);
out:
    free(inspection.runs);
    moecl_model_close(model);
    moecl_context_destroy(context);
    return outcome;
}

static const struct option table[] = {
    {NULL, "MODEL", option_text, offsetof(struct inspect_options, model), true,
     "a directory with config.json and model.safetensors, or a GGUF file"},
    OPTION_FAMILY(struct inspect_options),
};
static const struct inspect_options defaults = {.model = NULL};

const struct command command_inspect = {
    .name = "inspect",
    .summary = "show a model's MoE layers, their cost, and whether they fit the device",
    .details = "Bytes are those of the weights in the file's type (the router's in f32, as the device keeps them);\n"
               "a forward pass takes up to 1 GiB of workspace beside them. A token's FLOPs count a multiplication\n"
               "and an addition for each weight it meets. Works without a device too.",
    .examples = "  moecl inspect models/OLMoE-1B-7B-0924\n"
                "  moecl inspect models/OLMoE-1B-7B-0924 --json",
    .options = table,
    .option_count = sizeof(table) / sizeof(table[0]),
    .defaults = &defaults,
    .size = sizeof(defaults),
    .run = run_inspect,
};
