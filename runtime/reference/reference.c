/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - the layer in double precision: the formulas at the head of moecl.h, in their order.
 *
 * It goes expert by expert, so that a row of weights is converted once for all the tokens that chose the expert, and
 * keeps what each chosen expert gave [T*k,H] until the weighted sum. */
#include <moecl/reference.h>

#include <string.h>

#include "device/error.h"
#include "device/memory.h"
#include "parts.h"

struct work {
    double *x;            /* [T,H] */
    double *logits;       /* [T,E] */
    int32_t *ids;         /* [T,k] */
    double *weights;      /* [T,k] */
    double *outputs;      /* [T*k,H]: expert_{ids_tj}(x_t) */
    double *shared;       /* [T,H]: shared(x_t) */
    double *row, *up_row; /* a row of a weight matrix */
    double *h;            /* [T*k,I or S]: the activated rows of one expert */
    size_t *members;      /* [T*k]: the assignments of one expert */
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static double *doubles(size_t rows, size_t columns)
{
    size_t count;
    return moecl_size_multiply(rows, columns, &count) ? moecl_allocate(count, sizeof(double)) : NULL;
}

static void work_free(struct work *work)
{
    moecl_free(work->x);
    moecl_free(work->logits);
    moecl_free(work->ids);
    moecl_free(work->weights);
    moecl_free(work->outputs);
    moecl_free(work->shared);
    moecl_free(work->row);
    moecl_free(work->up_row);
    moecl_free(work->h);
    moecl_free(work->members);
}

static moecl_status work_allocate(struct work *work, const moecl_layer_options *options, size_t tokens, bool outputs)
{
    size_t widest = larger(options->intermediate, options->shared_intermediate), assignments;
    if (!moecl_size_multiply(tokens, options->top_k, &assignments))
        return MOECL_OUT_OF_HOST_MEMORY;
    size_t rows = outputs ? assignments : 0, shared_rows = outputs && options->shared_intermediate > 0 ? tokens : 0;
    work->x = doubles(tokens, options->hidden);
    work->logits = doubles(tokens, options->experts);
    work->ids = moecl_allocate(assignments, sizeof(int32_t));
    work->weights = doubles(tokens, options->top_k);
    work->outputs = doubles(rows, options->hidden);
    work->shared = doubles(shared_rows, options->hidden);
    work->row = doubles(1, larger(options->hidden, widest));
    work->up_row = doubles(1, options->hidden);
    work->h = doubles(rows, widest);
    work->members = moecl_allocate(rows, sizeof(size_t));
    bool complete = work->x && work->logits && work->ids && work->weights && work->outputs && work->shared &&
                    work->row && work->up_row && work->h && work->members;
    return complete ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

/* z_t = W_router x_t */
static void compute_logits(const moecl_reference_call *call, struct work *work)
{
    size_t experts = call->options->experts, hidden = call->options->hidden;
    for (size_t e = 0; e < experts; e++) {
        moecl_reference_read_row(&call->weights->router, e, MOECL_F32, work->row);
        for (size_t t = 0; t < call->tokens; t++)
            work->logits[t * experts + e] = moecl_reference_inner_product(work->row, &work->x[t * hidden], hidden);
    }
}

/* ids_t and w_t of p_t = softmax(z_t) */
static void route(const moecl_reference_call *call, struct work *work)
{
    size_t experts = call->options->experts, top_k = call->options->top_k;
    for (size_t t = 0; t < call->tokens; t++) {
        const double *logits = &work->logits[t * experts];
        int32_t *ids = &work->ids[t * top_k];
        moecl_reference_select(logits, experts, top_k, ids);
        moecl_reference_weigh(logits, experts, ids, top_k,
                              call->options->router.normalisation != MOECL_NORMALISATION_NONE,
                              &work->weights[t * top_k]);
    }
}

/* expert(x) = W_down ( silu(W_gate x) * (W_up x) ) for each member m: of row m / divisor of x into row m of outputs */
static void compute_expert(const moecl_expert_weights *expert, moecl_type storage, struct work *work, size_t count,
                           size_t divisor, double *outputs)
{
    size_t intermediate = expert->gate.rows, hidden = expert->gate.columns;
    if (count == 0)
        return;
    for (size_t i = 0; i < intermediate; i++) {
        moecl_reference_read_row(&expert->gate, i, storage, work->row);
        moecl_reference_read_row(&expert->up, i, storage, work->up_row);
        for (size_t m = 0; m < count; m++) {
            const double *x = &work->x[work->members[m] / divisor * hidden];
            double gate = moecl_reference_inner_product(work->row, x, hidden);
            double up = moecl_reference_inner_product(work->up_row, x, hidden);
            work->h[m * intermediate + i] = moecl_reference_silu(gate) * up;
        }
    }
    for (size_t o = 0; o < hidden; o++) {
        moecl_reference_read_row(&expert->down, o, storage, work->row);
        for (size_t m = 0; m < count; m++)
            outputs[work->members[m] * hidden + o] =
                moecl_reference_inner_product(work->row, &work->h[m * intermediate], intermediate);
    }
}

static void compute_experts(const moecl_reference_call *call, struct work *work)
{
    const moecl_layer_options *options = call->options;
    size_t assignments = call->tokens * options->top_k;
    for (size_t e = 0; e < options->experts; e++) {
        size_t count = 0;
        for (size_t a = 0; a < assignments; a++)
            if (work->ids[a] == (int32_t)e)
                work->members[count++] = a;
        compute_expert(&call->weights->experts[e], options->weights, work, count, options->top_k, work->outputs);
    }
    if (options->shared_intermediate > 0) {
        for (size_t t = 0; t < call->tokens; t++)
            work->members[t] = t;
        compute_expert(&call->weights->shared, options->weights, work, call->tokens, 1, work->shared);
    }
}

/* y_t = sum_j w_tj expert_{ids_tj}(x_t)  [ + sigmoid(g . x_t) shared(x_t) ]; an id out of range gives nothing */
static void combine(const moecl_reference_call *call, struct work *work)
{
    const moecl_layer_options *options = call->options;
    size_t hidden = options->hidden;
    bool shared = options->shared_intermediate > 0, gated = shared && options->shared_gate;
    if (gated)
        moecl_reference_read_row(&call->weights->shared_gate, 0, MOECL_F32, work->row);
    for (size_t t = 0; t < call->tokens; t++) {
        double *y = &call->y[t * hidden];
        memset(y, 0, hidden * sizeof(double));
        for (size_t a = t * options->top_k; a < (t + 1) * options->top_k; a++)
            if (work->ids[a] >= 0 && (size_t)work->ids[a] < options->experts)
                for (size_t i = 0; i < hidden; i++)
                    y[i] += work->weights[a] * work->outputs[a * hidden + i];
        if (!shared)
            continue;
        double logit = gated ? moecl_reference_inner_product(work->row, &work->x[t * hidden], hidden) : 0;
        double scale = gated ? moecl_reference_sigmoid(logit) : 1;
        for (size_t i = 0; i < hidden; i++)
            y[i] += scale * work->shared[t * hidden + i];
    }
}

static void copy_doubles(double *to, const double *from, size_t count)
{
    if (to != NULL)
        memcpy(to, from, count * sizeof(double));
}

moecl_status moecl_reference_forward(const moecl_reference_call *call)
{
    moecl_status status = MOECL_OK;
    struct work work = {0};
    if (call == NULL || moecl_reference_check(call->options, call->weights) != MOECL_OK ||
        (call->tokens > 0 && call->x == NULL) ||
        (call->tokens > 0 && call->ids_given && (call->ids == NULL || call->routing_weights == NULL)))
        return MOECL_INVALID_ARGUMENT;
    if (call->tokens == 0)
        return MOECL_OK;

    const moecl_layer_options *options = call->options;
    size_t assignments = call->tokens * options->top_k;
    TRY(work_allocate(&work, options, call->tokens, call->y != NULL));
    moecl_reference_read(call->x, MOECL_F32, options->activations, call->tokens * options->hidden, work.x);
    if (!call->ids_given || call->logits != NULL) {
        compute_logits(call, &work);
        copy_doubles(call->logits, work.logits, call->tokens * options->experts);
    }
    if (call->ids_given) {
        memcpy(work.ids, call->ids, assignments * sizeof(int32_t));
        memcpy(work.weights, call->routing_weights, assignments * sizeof(double));
    } else {
        route(call, &work);
        if (call->ids != NULL)
            memcpy(call->ids, work.ids, assignments * sizeof(int32_t));
        copy_doubles(call->routing_weights, work.weights, assignments);
    }
    if (call->y != NULL) {
        compute_experts(call, &work);
        combine(call, &work);
    }
out:
    work_free(&work);
    return status;
}
