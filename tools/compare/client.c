/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - an expert block of moecl for programs that are not C: plain numbers and pointers in, a status out.
 *
 * It is compiled against the public headers, so that no other language has to know how their structs are laid out.
 * A function that can fail returns 0, or 1 and leaves a sentence for compare_error(). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/measure.h>
#include <moecl/moecl.h>

enum { TEXT = 512, DEVICES = 64 };

struct compare {
    moecl_context *context;
    moecl_meter *meter;
    moecl_layer *layer;
    moecl_layer_options options;
    size_t tokens, routings;
    moecl_buffer x, y, ids, weights;
    char title[TEXT], error[TEXT];
};

struct compare *compare_make(void);
void compare_free(struct compare *compare);
const char *compare_error(const struct compare *compare);
int compare_open(struct compare *compare, const char *device);
const char *compare_title(const struct compare *compare);
int compare_layer(struct compare *compare, size_t experts, size_t hidden, size_t intermediate, size_t top_k,
                  const char *type, const char *variant);
const char *compare_variant(const struct compare *compare);
int compare_expert(struct compare *compare, size_t expert, const void *gate_up, const void *down);
int compare_feed(struct compare *compare, size_t tokens, const void *x, size_t routings, const int32_t *ids,
                 const float *weights);
int compare_call(struct compare *compare, size_t routing);
int compare_read(struct compare *compare, void *y);
int compare_limits(struct compare *compare, double *read_bytes_per_second, double *fp32_flops, double *bf16_flops);
void compare_drop(struct compare *compare);

static int check(struct compare *compare, moecl_status status)
{
    if (status == MOECL_OK)
        return 0;
    snprintf(compare->error, TEXT, "%s: %s", moecl_status_name(status), moecl_context_error(compare->context));
    return 1;
}

static int check_cl(struct compare *compare, const char *what, cl_int code)
{
    if (code == CL_SUCCESS)
        return 0;
    snprintf(compare->error, TEXT, "%s failed with the OpenCL code %d", what, (int)code);
    return 1;
}

/* -------------------------------------------------------------------------------------------------- device -- */

struct compare *compare_make(void)
{
    return calloc(1, sizeof(struct compare));
}

const char *compare_error(const struct compare *compare)
{
    return compare->error;
}

const char *compare_title(const struct compare *compare)
{
    return compare->title;
}

/* "P:D" of the first device that is a CPU and nothing else (simulators call themselves everything at once): the peers
 * run on the CPU, whatever else the machine has. */
static int find_cpu(struct compare *compare, char name[TEXT])
{
    moecl_device_info devices[DEVICES];
    size_t count = 0;
    if (check(compare, moecl_device_list(compare->context, devices, DEVICES, &count)))
        return 1;
    for (size_t i = 0; i < count && i < DEVICES; i++) {
        if (devices[i].type == CL_DEVICE_TYPE_CPU) {
            snprintf(name, TEXT, "%u:%u", devices[i].platform_index, devices[i].device_index);
            return 0;
        }
    }
    snprintf(compare->error, TEXT, "no OpenCL device is a CPU");
    return 1;
}

/* `device` as in moecl_context_open(); "" without MOECL_DEVICE: the first CPU. */
int compare_open(struct compare *compare, const char *device)
{
    moecl_device_info info;
    const char *wanted = getenv("MOECL_DEVICE");
    char name[TEXT];
    snprintf(name, TEXT, "%s", device[0] != '\0' || !wanted ? device : wanted);
    if (check(compare, moecl_context_create(&compare->context)) || (name[0] == '\0' && find_cpu(compare, name)) ||
        check(compare, moecl_context_open(compare->context, name)) ||
        check(compare, moecl_device_describe(compare->context, false, &info)))
        return 1;
    snprintf(compare->title, TEXT, "%s / %s, %u compute units", info.platform, info.name, info.compute_units);
    return 0;
}

/* A short reading. */
int compare_limits(struct compare *compare, double *read_bytes_per_second, double *fp32_flops, double *bf16_flops)
{
    moecl_limits limits;
    if ((!compare->meter && check(compare, moecl_meter_create(compare->context, &compare->meter))) ||
        check(compare, moecl_meter_read(compare->meter, 1e-3, &limits)))
        return 1;
    *read_bytes_per_second = limits.read_bytes_per_second;
    *fp32_flops = limits.fp32_flops;
    *bf16_flops = limits.bf16_flops;
    return 0;
}

/* --------------------------------------------------------------------------------------------------- layer -- */

static void release(moecl_buffer *buffer)
{
    if (buffer->memory)
        clReleaseMemObject(buffer->memory);
    *buffer = (moecl_buffer){0};
}

static void release_feed(struct compare *compare)
{
    release(&compare->x);
    release(&compare->y);
    release(&compare->ids);
    release(&compare->weights);
    compare->tokens = compare->routings = 0;
}

/* Forgets the layer and what it was fed. */
void compare_drop(struct compare *compare)
{
    release_feed(compare);
    moecl_layer_destroy(compare->layer);
    compare->layer = NULL;
}

void compare_free(struct compare *compare)
{
    if (!compare)
        return;
    compare_drop(compare);
    moecl_meter_destroy(compare->meter);
    moecl_context_destroy(compare->context);
    free(compare);
}

/* `variant` "": the library's plan decides. */
int compare_layer(struct compare *compare, size_t experts, size_t hidden, size_t intermediate, size_t top_k,
                  const char *type, const char *variant)
{
    moecl_type storage = MOECL_F32;
    compare_drop(compare);
    if (!moecl_type_from_name(type, &storage)) {
        snprintf(compare->error, TEXT, "there is no type %s", type);
        return 1;
    }
    compare->options = (moecl_layer_options){.experts = experts,
                                             .hidden = hidden,
                                             .intermediate = intermediate,
                                             .top_k = top_k,
                                             .weights = storage,
                                             .activations = storage,
                                             .variant = variant[0] != '\0' ? variant : NULL};
    return check(compare, moecl_layer_create(compare->context, &compare->options, &compare->layer));
}

const char *compare_variant(const struct compare *compare)
{
    return compare->layer ? moecl_layer_describe(compare->layer)->variant : "";
}

/* gate_up [2I,H]: the gate's rows, then the up's; down [H,I]; both of the layer's type. */
int compare_expert(struct compare *compare, size_t expert, const void *gate_up, const void *down)
{
    const moecl_layer_options *options = &compare->options;
    const size_t hidden = options->hidden, intermediate = options->intermediate;
    const char *up = (const char *)gate_up + intermediate * hidden * moecl_type_size(options->weights);
    const moecl_expert_weights weights = {
        .gate = {.data = gate_up, .type = options->weights, .rows = intermediate, .columns = hidden},
        .up = {.data = up, .type = options->weights, .rows = intermediate, .columns = hidden},
        .down = {.data = down, .type = options->weights, .rows = hidden, .columns = intermediate}};
    return check(compare, moecl_layer_set_expert(compare->layer, expert, &weights));
}

/* -------------------------------------------------------------------------------------------------- a call -- */

static int make_buffer(struct compare *compare, const char *what, size_t bytes, const void *content,
                       moecl_buffer *buffer)
{
    cl_int code = CL_SUCCESS;
    buffer->memory = clCreateBuffer(moecl_context_cl(compare->context), CL_MEM_READ_WRITE, bytes, NULL, &code);
    if (code == CL_SUCCESS && content)
        code = clEnqueueWriteBuffer(moecl_context_queue(compare->context), buffer->memory, CL_TRUE, 0, bytes, content,
                                    0, NULL, NULL);
    return check_cl(compare, what, code);
}

/* x [T,H] of the layer's type; `routings` routings [T,k], one after the other. */
int compare_feed(struct compare *compare, size_t tokens, const void *x, size_t routings, const int32_t *ids,
                 const float *weights)
{
    const size_t bytes = tokens * compare->options.hidden * moecl_type_size(compare->options.activations);
    const size_t choices = routings * tokens * compare->options.top_k;
    release_feed(compare);
    if (make_buffer(compare, "a buffer for x", bytes, x, &compare->x) ||
        make_buffer(compare, "a buffer for y", bytes, NULL, &compare->y) ||
        make_buffer(compare, "a buffer for ids", choices * sizeof(*ids), ids, &compare->ids) ||
        make_buffer(compare, "a buffer for routing weights", choices * sizeof(*weights), weights, &compare->weights) ||
        check(compare, moecl_layer_reserve(compare->layer, tokens)))
        return 1;
    compare->tokens = tokens;
    compare->routings = routings;
    return 0;
}

/* A forward pass, complete when this returns. */
int compare_call(struct compare *compare, size_t routing)
{
    const size_t choices = (routing % compare->routings) * compare->tokens * compare->options.top_k;
    const moecl_forward forward = {.tokens = compare->tokens,
                                   .x = compare->x,
                                   .y = compare->y,
                                   .routing = {.ids = {compare->ids.memory, choices * sizeof(int32_t)},
                                               .weights = {compare->weights.memory, choices * sizeof(float)}},
                                   .routing_given = true};
    return check(compare, moecl_layer_forward(compare->layer, &forward, 0, NULL, NULL)) ||
           check_cl(compare, "clFinish", clFinish(moecl_context_queue(compare->context)));
}

/* The y of the last call, of the layer's type; 1 also where that call met NaN or ids out of range. */
int compare_read(struct compare *compare, void *y)
{
    const size_t bytes = compare->tokens * compare->options.hidden * moecl_type_size(compare->options.activations);
    return check(compare, moecl_layer_check(compare->layer)) ||
           check_cl(compare, "reading y",
                    clEnqueueReadBuffer(moecl_context_queue(compare->context), compare->y.memory, CL_TRUE, 0, bytes, y,
                                        0, NULL, NULL));
}
