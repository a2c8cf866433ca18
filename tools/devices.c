/* SPDX-License-Identifier: Apache-2.0 */
/* devices.c - moecl devices: the OpenCL devices there are, and what probes found that they can do. */
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "output.h"

struct devices_options {
    struct common_options common;
};

/* A device of the list. */
struct entry {
    moecl_device_info info;
    bool is_default;
    struct fault fault; /* why it could not be opened and probed; an empty sentence if it was */
};

static const struct {
    cl_device_type type;
    const char *name;
} device_types[] = {{CL_DEVICE_TYPE_GPU, "GPU"},
                    {CL_DEVICE_TYPE_ACCELERATOR, "accelerator"},
                    {CL_DEVICE_TYPE_CPU, "CPU"},
                    {CL_DEVICE_TYPE_CUSTOM, "custom"}};

/* What probes find, as columns and as JSON keys. */
static const struct {
    const char *title, *key;
    size_t offset; /* of the bool */
} probes[] = {{"fp16", "fp16", offsetof(moecl_device_info, fp16)},
              {"bf16", "bf16", offsetof(moecl_device_info, bf16)},
              {"fp64", "fp64", offsetof(moecl_device_info, fp64)},
              {"int dot", "integer_dot", offsetof(moecl_device_info, integer_dot)},
              {"AVX512-BF16", "avx512_bf16", offsetof(moecl_device_info, avx512_bf16)},
              {"AMX-BF16", "amx_bf16", offsetof(moecl_device_info, amx_bf16)}};
enum { PROBE_COUNT = sizeof(probes) / sizeof(probes[0]) };

static const char *type_name(cl_device_type type)
{
    for (size_t i = 0; i < sizeof(device_types) / sizeof(device_types[0]); i++) {
        if (type & device_types[i].type)
            return device_types[i].name;
    }
    return "other";
}

static bool probe_result(const moecl_device_info *info, size_t probe)
{
    return *(const bool *)((const char *)info + probes[probe].offset);
}

/* Opens `device` in a context of its own, since a context has one device, and describes it with probes. */
static enum outcome describe(const char *device, bool probe, moecl_device_info *info, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_context *context = NULL;
    TRY_MOECL(context, moecl_context_create(&context));
    TRY_MOECL(context, moecl_context_open(context, device));
    TRY_MOECL(context, moecl_device_describe(context, probe, info));
out:
    moecl_context_destroy(context);
    return outcome;
}

static enum outcome list_all(moecl_context *context, struct entry **entries, size_t *count, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_device_info *infos = NULL;
    size_t capacity = 0;
    TRY_MOECL(context, moecl_device_list(context, NULL, 0, &capacity));
    infos = calloc(capacity + 1, sizeof(*infos));
    *entries = calloc(capacity + 1, sizeof(**entries));
    if (!infos || !*entries) {
        outcome = fault_memory(fault, "the list of devices");
        goto out;
    }
    TRY_MOECL(context, moecl_device_list(context, infos, capacity, count));
    *count = *count < capacity ? *count : capacity;
    for (size_t i = 0; i < *count; i++)
        (*entries)[i].info = infos[i];
out:
    free(infos);
    return outcome;
}

static bool same_device(const moecl_device_info *a, const moecl_device_info *b)
{
    return a->platform_index == b->platform_index && a->device_index == b->device_index;
}

/* Fills in what probes find, and which device is the default; a device that fails keeps the sentence. */
static void probe_all(struct entry *entries, size_t count)
{
    moecl_device_info chosen;
    bool has_default = describe(NULL, false, &chosen, NULL) == OUTCOME_SUCCESS;
    for (size_t i = 0; i < count; i++) {
        moecl_device_info *info = &entries[i].info;
        char name[32];
        snprintf(name, sizeof(name), "%u:%u", info->platform_index, info->device_index);
        output_progress("probing %s (%s)", name, info->name);
        entries[i].is_default = has_default && same_device(info, &chosen);
        moecl_device_info probed;
        if (describe(name, true, &probed, &entries[i].fault) == OUTCOME_SUCCESS)
            *info = probed;
    }
    output_progress("%s", "");
}

/* "4 8 16", "none" or "?". */
static void subgroup_text(const moecl_device_info *info, char *text, size_t capacity)
{
    snprintf(text, capacity, "%s", !info->probed ? "?" : info->subgroups ? "yes" : "no");
    size_t length = 0;
    for (unsigned bit = 0; info->probed && info->subgroups && bit < 32; bit++) {
        if (info->subgroup_sizes >> bit & 1)
            length += (size_t)snprintf(text + length, capacity - length, "%s%lu", length ? " " : "", 1ul << bit);
        if (length >= capacity)
            return;
    }
}

static enum outcome print_people(const struct entry *entries, size_t count, struct fault *fault)
{
    static const struct column columns[] = {
        {" P:D", false, 0},     {"device", false, 0},    {"platform", false, 0},      {"type", false, 0},
        {"units", true, 0},     {"memory", true, 0},     {"largest buffer", true, 0}, {"fp16", false, 0},
        {"bf16", false, 0},     {"fp64", false, 0},      {"int dot", false, 0},       {"AVX512-BF16", false, 0},
        {"AMX-BF16", false, 0}, {"sub-groups", false, 0}};
    struct table table = table_begin(columns, sizeof(columns) / sizeof(columns[0]));
    for (size_t i = 0; i < count; i++) {
        const moecl_device_info *info = &entries[i].info;
        char memory[OUTPUT_TEXT], largest[OUTPUT_TEXT], subgroups[128];
        table_cell(&table, "%s%u:%u", entries[i].is_default ? "*" : " ", info->platform_index, info->device_index);
        table_cell(&table, "%s", info->name);
        table_cell(&table, "%s", info->platform);
        table_cell(&table, "%s", type_name(info->type));
        table_cell(&table, "%u", info->compute_units);
        table_cell(&table, "%s", output_bytes(memory, (double)info->global_memory));
        table_cell(&table, "%s", output_bytes(largest, (double)info->max_allocation));
        for (size_t p = 0; p < PROBE_COUNT; p++)
            table_cell(&table, "%s", !info->probed ? "?" : probe_result(info, p) ? "yes" : "no");
        subgroup_text(info, subgroups, sizeof(subgroups));
        table_cell(&table, "%s", subgroups);
    }
    enum outcome outcome = table_print(&table, fault);
    for (size_t i = 0; i < count; i++) {
        if (entries[i].is_default)
            printf("\n* the default; --device or MOECL_DEVICE choose another, by number or by a part of the name\n");
    }
    for (size_t i = 0; i < count; i++) {
        if (entries[i].fault.sentence[0])
            printf("%u:%u cannot be used: %s\n", entries[i].info.platform_index, entries[i].info.device_index,
                   entries[i].fault.sentence);
    }
    table_end(&table);
    return outcome;
}

static json_t *device_json(const struct entry *entry)
{
    const moecl_device_info *info = &entry->info;
    char number[32];
    snprintf(number, sizeof(number), "%u:%u", info->platform_index, info->device_index);
    json_t *json = json_pack(
        "{s:s, s:b, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:b, s:I, s:b, s:b}", "number", number,
        "default", (int)entry->is_default, "platform", info->platform, "name", info->name, "vendor", info->vendor,
        "driver", info->driver, "version", info->version, "c_version", info->c_version, "type", type_name(info->type),
        "compute_units", (int)info->compute_units, "memory", (json_int_t)info->global_memory, "max_allocation",
        (json_int_t)info->max_allocation, "local_memory", (json_int_t)info->local_memory, "local_is_global",
        (int)info->local_is_global, "max_work_group", (json_int_t)info->max_work_group, "out_of_order",
        (int)info->out_of_order, "probed", (int)info->probed);
    for (size_t p = 0; json && p < PROBE_COUNT; p++)
        json_object_set_new(json, probes[p].key, info->probed ? json_boolean(probe_result(info, p)) : json_null());
    json_t *sizes = json_array();
    for (unsigned bit = 0; bit < 32; bit++) {
        if (info->probed && (info->subgroup_sizes >> bit & 1))
            json_array_append_new(sizes, json_integer((json_int_t)1 << bit));
    }
    json_object_set_new(json, "subgroups", info->probed ? json_boolean(info->subgroups) : json_null());
    json_object_set_new(json, "subgroup_sizes", sizes);
    if (entry->fault.sentence[0])
        json_object_set_new(json, "error", json_string(entry->fault.sentence));
    return json;
}

static enum outcome run_devices(const void *given, struct fault *fault)
{
    const struct devices_options *options = given;
    enum outcome outcome = OUTCOME_SUCCESS;
    moecl_context *context = NULL;
    struct entry *entries = NULL;
    size_t count = 0, kept = 0;
    moecl_device_info wanted;
    TRY_MOECL(context, moecl_context_create(&context));
    if (options->common.device)
        TRY(describe(options->common.device, false, &wanted, fault));
    TRY(list_all(context, &entries, &count, fault));
    for (size_t i = 0; i < count; i++) {
        if (!options->common.device || same_device(&entries[i].info, &wanted))
            entries[kept++] = entries[i];
    }
    probe_all(entries, kept);
    if (!options->common.json) {
        TRY(print_people(entries, kept, fault));
        goto out;
    }
    json_t *json = json_array();
    for (size_t i = 0; i < kept; i++)
        json_array_append_new(json, device_json(&entries[i]));
    TRY(output_json(json, fault));
out:
    free(entries);
    moecl_context_destroy(context);
    return outcome;
}

static const struct devices_options defaults = {{NULL, false}};

const struct command command_devices = {
    .name = "devices",
    .summary = "list the OpenCL devices and what they can do",
    .details = "What a device can do is found by compiling and running small probes, not by asking its driver.\n"
               "With --device, that device alone is listed.",
    .examples = "  moecl devices\n"
                "  moecl devices --json\n"
                "  MOECL_DEVICE=rusticl moecl devices",
    .defaults = &defaults,
    .size = sizeof(defaults),
    .run = run_devices,
};
