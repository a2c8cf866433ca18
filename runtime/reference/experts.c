/* SPDX-License-Identifier: Apache-2.0 */
/* experts.c - the experts and the sum over them, and what fp32 may make of them.
 *
 * It goes expert by expert, so that a row of weights is converted once for all the tokens that chose the expert, and
 * keeps what each chosen expert gave until the weighted sum. W is H, or L behind a latent projection.
 *
 * Where errors are wanted, each value has one beside it: what its inner product may be off by (moecl_bound_product()),
 * and what the errors of its terms make of it, which are independent and add up as their squares. */
#include "experts.h"

#include <math.h>
#include <string.h>

#include "bounds.h"
#include "device/error.h"
#include "device/memory.h"
#include "function.h"
#include "layer/options.h"
#include "parts.h"
#include "verification.h"

static const double u = 0x1p-24;

/* Values and what they may be off by; no errors: NULL. */
struct values {
    double *value, *error;
};

struct work {
    const struct moecl_reference_experts_call *call;
    size_t hidden, width, slots;
    double relative;                    /* error of the experts' input */
    struct values input;                /* [T,W]: what the experts read; the error is of a latent projection */
    struct values outputs;              /* [rows,W]: what the experts gave, of the assignments that have one */
    size_t *places;                     /* [T*slots]: the row of an assignment */
    struct values shared;               /* [T,H] */
    struct values sum;                  /* [W], of a token */
    struct values h;                    /* [members, I or S] */
    double *row, *up_row;               /* a row of a weight matrix */
    double *gate_bias, *up_bias, *bias; /* of an expert: zeros where there are none */
    size_t *members;                    /* the assignments of one expert */
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static bool values_make(struct values *values, size_t rows, size_t columns, bool errors)
{
    values->value = moecl_reference_doubles(rows, columns);
    values->error = errors ? moecl_reference_doubles(rows, columns) : NULL;
    return values->value != NULL && (!errors || values->error != NULL);
}

static void work_free(struct work *work)
{
    struct values *values[] = {&work->input, &work->outputs, &work->shared, &work->sum, &work->h};
    double *arrays[] = {work->row, work->up_row, work->gate_bias, work->up_bias, work->bias};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        moecl_free(values[i]->value);
        moecl_free(values[i]->error);
    }
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        moecl_free(arrays[i]);
    moecl_free(work->members);
    moecl_free(work->places);
}

/* Gives every assignment that has an expert its row; *most is what the expert has that has most, at least one. */
static moecl_status place_assignments(struct work *work, size_t assignments, size_t *rows, size_t *most)
{
    const int32_t *ids = work->call->ids;
    const size_t experts = work->call->options->experts;
    size_t *counts = moecl_allocate(experts, sizeof(*counts));
    work->places = moecl_allocate(assignments, sizeof(*work->places));
    *rows = 0;
    *most = 1;
    for (size_t a = 0; counts != NULL && work->places != NULL && a < assignments; a++)
        if (ids[a] >= 0 && (size_t)ids[a] < experts) {
            work->places[a] = (*rows)++;
            *most = larger(*most, ++counts[ids[a]]);
        }
    moecl_status status = counts != NULL && work->places != NULL ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
    moecl_free(counts);
    return status;
}

static moecl_status work_make(struct work *work, const struct moecl_reference_experts_call *call)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = call->options;
    const size_t widest = larger(options->intermediate, options->shared_intermediate);
    const bool errors = call->y_errors != NULL, shared = options->shared_intermediate > 0;
    size_t assignments, rows, most;
    *work = (struct work){.call = call, .hidden = options->hidden, .slots = moecl_layer_slots(options)};
    work->width = options->latent > 0 ? options->latent : options->hidden;
    if (!moecl_size_multiply(call->tokens, work->slots, &assignments))
        TRY(MOECL_OUT_OF_HOST_MEMORY);
    TRY(place_assignments(work, assignments, &rows, &most));
    most = shared ? larger(most, call->tokens) : most;
    work->row = moecl_reference_doubles(1, larger(larger(work->hidden, work->width), widest));
    work->up_row = moecl_reference_doubles(1, larger(work->hidden, work->width));
    work->gate_bias = moecl_reference_doubles(1, widest);
    work->up_bias = moecl_reference_doubles(1, widest);
    work->bias = moecl_reference_doubles(1, larger(work->hidden, work->width));
    work->members = moecl_allocate(most, sizeof(size_t));
    if (!values_make(&work->input, call->tokens, work->width, errors && options->latent > 0) ||
        !values_make(&work->outputs, rows, work->width, errors) ||
        !values_make(&work->shared, shared ? call->tokens : 0, work->hidden, errors) ||
        !values_make(&work->sum, 1, work->width, errors) || !values_make(&work->h, most, widest, errors) ||
        !work->row || !work->up_row || !work->gate_bias || !work->up_bias || !work->bias || !work->members)
        TRY(MOECL_OUT_OF_HOST_MEMORY);
out:
    return status;
}

/* sum a_i b_i, and into *error what it may be off by, where that is not NULL. */
static double product(const double *a, const double *b, const double *b_errors, size_t count, double relative,
                      double *error)
{
    double squares, spread;
    if (error == NULL)
        return moecl_reference_inner_product(a, b, count);
    double sum = moecl_bound_inner_product(a, b, b_errors, count, &squares, &spread);
    *error = moecl_bound_product(count, sum, squares) + spread + relative * (fabs(sum) + 3 * sqrt(squares));
    return sum;
}

/* x itself, its norm, or its latent projection. */
static void make_input(struct work *work)
{
    const struct moecl_reference_experts_call *call = work->call;
    const moecl_layer_options *options = call->options;
    const size_t hidden = work->hidden, latent = options->latent;
    work->relative = latent > 0 ? 0 : moecl_bound_input(&options->expert_input, hidden);
    if (options->router.weight_on_input) /* the product of weight and input is rounded */
        work->relative += u;
    for (size_t t = 0; latent == 0 && t < call->tokens; t++)
        moecl_reference_input(&options->expert_input, call->vectors[MOECL_VECTOR_EXPERT_NORM], &call->x[t * hidden],
                              hidden, &work->input.value[t * hidden]);
    for (size_t l = 0; l < latent; l++) {
        moecl_reference_read_row(&call->weights->latent_down, l, options->weights, work->row);
        for (size_t t = 0; t < call->tokens; t++)
            work->input.value[t * latent + l] =
                product(work->row, &call->x[t * hidden], NULL, hidden, 0,
                        work->input.error != NULL ? &work->input.error[t * latent + l] : NULL);
    }
}

static void read_bias(const moecl_matrix *bias, bool there, double *to, size_t count)
{
    if (there)
        moecl_reference_read_row(bias, 0, MOECL_F32, to);
    else
        memset(to, 0, count * sizeof(*to));
}

/* An expert on the rows of its members: assignment m reads row m / divisor of the input [.,width], times its routing
 * weight where `weighted`, and writes row places[m] of outputs; places NULL: row m. */
struct expert_call {
    const moecl_expert_weights *expert;
    const moecl_expert_function *function;
    const double *input, *input_errors;
    double relative; /* error of the input */
    bool weighted;
    size_t intermediate, width, count, divisor;
    const size_t *places;
    moecl_type h_type; /* that the down product takes h in */
    struct values *outputs;
};

/* A row of gate or up on the input of assignment `assignment`, with its bias. */
static double linear(const struct work *work, const struct expert_call *call, size_t assignment, const double *row,
                     double bias, double *error)
{
    const size_t at = assignment / call->divisor * call->width;
    const double weight = call->weighted ? work->call->routing_weights[assignment] : 1;
    double sum = product(row, &call->input[at], call->input_errors != NULL ? &call->input_errors[at] : NULL,
                         call->width, call->relative, error);
    if (error != NULL)
        *error = fabs(weight) * *error + (call->weighted ? fabs(sum) * work->call->weight_errors[assignment] : 0) +
                 (bias != 0 ? 2 * u * (fabs(weight * sum) + fabs(bias)) : 0);
    return weight * sum + bias;
}

/* Column i of h. */
static void compute_h(const struct expert_call *call, struct work *work, size_t i)
{
    const bool gated = !call->function->ungated, errors = work->h.error != NULL;
    /* A sum's errors are added as squares (product()). A rounding is as likely anywhere up to its largest, so three
     * times that are five of its deviations, which the largest of some thousand sums stays within. */
    const double roundings = call->h_type == MOECL_F32 ? 0 : 3;
    const moecl_type storage = work->call->options->weights;
    moecl_reference_read_row(&call->expert->up, i, storage, work->up_row);
    if (gated)
        moecl_reference_read_row(&call->expert->gate, i, storage, work->row);
    for (size_t m = 0; m < call->count; m++) {
        double gate_error = 0, up_error = 0;
        const double up =
            linear(work, call, work->members[m], work->up_row, work->up_bias[i], errors ? &up_error : NULL);
        double gate = up;
        if (gated)
            gate = linear(work, call, work->members[m], work->row, work->gate_bias[i], errors ? &gate_error : NULL);
        else
            gate_error = up_error;
        const double h = moecl_reference_function(call->function, gate, up);
        work->h.value[m * call->intermediate + i] = h;
        if (errors)
            work->h.error[m * call->intermediate + i] =
                moecl_bound_function(call->function, gate, gate_error, up, up_error) +
                roundings * moecl_verify_rounding_of(h, call->h_type);
    }
}

static void compute_expert(const struct expert_call *call, struct work *work)
{
    const bool biased = call->function->biased, errors = call->outputs->error != NULL;
    if (call->count == 0)
        return;
    read_bias(&call->expert->gate_bias, biased && !call->function->ungated, work->gate_bias, call->intermediate);
    read_bias(&call->expert->up_bias, biased, work->up_bias, call->intermediate);
    read_bias(&call->expert->down_bias, biased, work->bias, call->width);
    for (size_t i = 0; i < call->intermediate; i++)
        compute_h(call, work, i);
    for (size_t o = 0; o < call->width; o++) {
        moecl_reference_read_row(&call->expert->down, o, work->call->options->weights, work->row);
        for (size_t m = 0; m < call->count; m++) {
            const size_t member = work->members[m], row = call->places != NULL ? call->places[member] : member;
            const size_t at = row * call->width + o, h_at = m * call->intermediate;
            double z = product(work->row, &work->h.value[h_at], errors ? &work->h.error[h_at] : NULL,
                               call->intermediate, 0, errors ? &call->outputs->error[at] : NULL);
            call->outputs->value[at] = z + work->bias[o];
            if (errors)
                call->outputs->error[at] += work->bias[o] != 0 ? 2 * u * (fabs(z) + fabs(work->bias[o])) : 0;
        }
    }
}

static void compute_experts(struct work *work)
{
    const struct moecl_reference_experts_call *call = work->call;
    const moecl_layer_options *options = call->options;
    struct expert_call expert = {.function = &options->function,
                                 .input = work->input.value,
                                 .input_errors = work->input.error,
                                 .relative = work->relative,
                                 .weighted = options->router.weight_on_input,
                                 .intermediate = options->intermediate,
                                 .width = work->width,
                                 .divisor = work->slots,
                                 .places = work->places,
                                 .h_type = call->h_type,
                                 .outputs = &work->outputs};
    for (size_t e = 0; e < options->experts; e++) {
        expert.expert = &call->weights->experts[e];
        expert.count = 0;
        for (size_t a = 0; a < call->tokens * work->slots; a++)
            if (call->ids[a] == (int32_t)e)
                work->members[expert.count++] = a;
        compute_expert(&expert, work);
    }
    if (options->shared_intermediate == 0)
        return;
    for (size_t t = 0; t < call->tokens; t++)
        work->members[t] = t;
    compute_expert(&(struct expert_call){.expert = &call->weights->shared,
                                         .function = &options->shared_function,
                                         .input = call->x,
                                         .intermediate = options->shared_intermediate,
                                         .width = work->hidden,
                                         .count = call->tokens,
                                         .divisor = 1,
                                         .h_type = call->shared_h_type,
                                         .outputs = &work->shared},
                   work);
}

/* ------------------------------------------------------------------------------------------------- the sum -- */

void moecl_reference_coefficients(const moecl_layer_options *options, const double *gate_logits, double *routed,
                                  double *shared)
{
    *routed = 1;
    *shared = options->shared_scale != 0 ? (double)options->shared_scale : 1;
    switch (options->shared_gate) {
    case MOECL_SHARED_GATE_SIGMOID:
        *shared *= moecl_reference_sigmoid(gate_logits[0]);
        break;
    case MOECL_SHARED_GATE_SOFTMAX:
        *routed = moecl_reference_sigmoid(gate_logits[0] - gate_logits[1]);
        *shared *= moecl_reference_sigmoid(gate_logits[1] - gate_logits[0]);
        break;
    case MOECL_SHARED_GATE_NONE:
        break;
    }
}

/* sum_j w_tj z_tj [W] of token t; a zero expert's z is x. */
static void sum_choices(struct work *work, size_t token)
{
    const struct moecl_reference_experts_call *call = work->call;
    const moecl_layer_options *options = call->options;
    const size_t width = work->width, outputs = moecl_router_outputs(options);
    memset(work->sum.value, 0, width * sizeof(double));
    if (work->sum.error != NULL)
        memset(work->sum.error, 0, width * sizeof(double));
    for (size_t a = token * work->slots; a < (token + 1) * work->slots; a++) {
        if (call->ids[a] < 0 || (size_t)call->ids[a] >= outputs)
            continue;
        const bool zero = (size_t)call->ids[a] >= options->experts, weighted = !options->router.weight_on_input;
        const double *z = zero ? &call->x[token * width] : &work->outputs.value[work->places[a] * width];
        const double weight = weighted ? call->routing_weights[a] : 1;
        for (size_t c = 0; c < width; c++)
            work->sum.value[c] += weight * z[c];
        for (size_t c = 0; work->sum.error != NULL && c < width; c++)
            work->sum.error[c] += fabs(weight) * (zero ? 0 : work->outputs.error[work->places[a] * width + c]) +
                                  (weighted ? call->weight_errors[a] : 0) * fabs(z[c]) +
                                  moecl_verify_rounding(work->slots) * fabs(weight * z[c]);
    }
}

/* What the shared gate's logits may be off by does to the coefficients, relative to them. */
static double coefficient_error(const moecl_layer_options *options, const double *gate_errors)
{
    switch (options->shared_gate) {
    case MOECL_SHARED_GATE_SIGMOID:
        return 16 * u + expm1(gate_errors[0]);
    case MOECL_SHARED_GATE_SOFTMAX:
        return 16 * u + expm1(gate_errors[0] + gate_errors[1]);
    case MOECL_SHARED_GATE_NONE:
        break;
    }
    return options->shared_scale != 0 ? 2 * u : 0;
}

/* y = c_0 * (the sum, brought back to H) + bias + c_1 * shared, of token t */
static void combine(struct work *work, size_t token)
{
    const struct moecl_reference_experts_call *call = work->call;
    const moecl_layer_options *options = call->options;
    const size_t hidden = work->hidden, at = token * hidden;
    const double *bias = call->vectors[MOECL_VECTOR_OUTPUT_BIAS];
    const bool errors = call->y_errors != NULL, shared = options->shared_intermediate > 0;
    double gate_logits[2] = {0, 0}, gate_errors[2] = {0, 0}, c_0, c_1;
    for (size_t g = 0; g < moecl_shared_gate_rows(options); g++) {
        moecl_reference_read_row(&call->weights->shared_gate, g, MOECL_F32, work->row);
        gate_logits[g] = product(work->row, &call->x[at], NULL, hidden, 0, errors ? &gate_errors[g] : NULL);
    }
    moecl_reference_coefficients(options, gate_logits, &c_0, &c_1);
    const double relative = coefficient_error(options, gate_errors);
    for (size_t c = 0; c < hidden; c++) {
        double routed = work->sum.value[options->latent > 0 ? 0 : c], error = 0;
        if (errors)
            error = work->sum.error[options->latent > 0 ? 0 : c];
        if (options->latent > 0) {
            moecl_reference_read_row(&call->weights->latent_up, c, options->weights, work->row);
            routed = product(work->row, work->sum.value, work->sum.error, work->width, 0, errors ? &error : NULL);
        }
        const double added = bias != NULL ? bias[c] : 0, other = shared ? c_1 * work->shared.value[at + c] : 0;
        call->y[at + c] = c_0 * routed + added + other;
        if (errors)
            call->y_errors[at + c] =
                c_0 * error + (shared ? fabs(c_1) * work->shared.error[at + c] + relative * fabs(other) : 0) +
                (options->shared_gate == MOECL_SHARED_GATE_SOFTMAX ? relative * fabs(c_0 * routed) : 0) +
                4 * u * (fabs(c_0 * routed) + fabs(added) + fabs(other));
    }
}

moecl_status moecl_reference_experts(const struct moecl_reference_experts_call *call)
{
    moecl_status status = MOECL_OK;
    struct work work;
    TRY(work_make(&work, call));
    make_input(&work);
    compute_experts(&work);
    for (size_t t = 0; t < call->tokens; t++) {
        sum_choices(&work, t);
        combine(&work, t);
    }
out:
    work_free(&work);
    return status;
}
