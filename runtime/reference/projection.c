/* SPDX-License-Identifier: Apache-2.0 */
/* projection.c - checks of every stage of a layer in O(n^2), so that real sizes are verified in seconds.
 *
 * A product Y = X W^T (X [rows,K], W [N,K]) is checked by projection (Freivalds 1977): for a random vector r [N], both
 * Y r and X (W^T r) are made in double precision, which takes rows*N + N*K + rows*K steps instead of rows*N*K, and
 * compared row by row. The numbers of r have random signs and sizes from 1 to 2, and four such vectors are tried.
 *
 * What that detects, with R = |W| |x| (Frobenius norm; a typical element of y has the size R / sqrt(N K)) and the
 * tolerance c(K) R of moecl_verify_rounding():
 *   - one wrong element of y, off by more than 2 c(K) R: always, since no |r_o| is below 1
 *   - several wrong elements in a row: unless their errors cancel, in all four projections. Two elements exchanged, or
 *     one error of opposite signs, come within the tolerance of cancelling with a chance of about 2 c(K) R / error each
 *   - a wrong row, a wrong expert, an error in W: they are wrong elements in many rows, and one row suffices
 * What it cannot detect: errors below the tolerance, which is that of fp32 rounding. The projected rounding errors of
 * the N elements have random signs, so their sum grows with the square root of N as R does, and c(K) R is more than
 * four of its standard deviations even if every partial sum were as large as it can be, about eight if they grow
 * steadily, and far more for terms of random sign.
 *
 * Every stage is checked on the device's own results of the stage before, so errors do not add up:
 *   logits             by projection; the router's are moecl_route()'s, bit for bit
 *   ids, weights       recomputed from the device's logits: ids exactly
 *   permutation        recomputed: exactly
 *   gate x, up x       by projection, expert by expert, before the activation (MOECL_PRODUCT_LINEAR)
 *   h                  element by element from those
 *   down               by projection, of h as the product sees it: rounded where a variant rounds it
 *   y                  element by element from the experts' outputs; then the forward pass must give the same bits */
#include <math.h>
#include <string.h>

#include "device/memory.h"
#include "parts.h"
#include "random.h"
#include "staged.h"

enum { PROJECTIONS = 4 };

/* ------------------------------------------------------------------------------------------- projections -- */

/* A product's rows on the host. */
struct product_rows {
    const char *what;      /* "gate", ...: for the words of an error */
    const double *input;   /* rows of K */
    const size_t *sources; /* row r of the product reads input row sources[r] / divisor; NULL: row r */
    size_t divisor;
    const float *output; /* row r begins at output + r * stride */
    size_t stride;
};

/* Memory for the projections of one matrix. */
struct projection {
    double *directions; /* [PROJECTIONS,N]: r */
    double *images;     /* [PROJECTIONS,K]: W^T r */
    double *row;        /* a row of W, or of the output */
};

static void projection_free(struct projection *projection)
{
    moecl_free(projection->directions);
    moecl_free(projection->images);
    moecl_free(projection->row);
}

static moecl_status projection_allocate(struct projection *projection, size_t rows, size_t columns)
{
    projection->directions = moecl_allocate(PROJECTIONS * rows, sizeof(double));
    projection->images = moecl_allocate(PROJECTIONS * columns, sizeof(double));
    projection->row = moecl_allocate(rows > columns ? rows : columns, sizeof(double));
    return projection->directions && projection->images && projection->row ? MOECL_OK : MOECL_OUT_OF_HOST_MEMORY;
}

/* Draws the directions and makes W^T r; *norm is |W|. */
static void project_matrix(uint64_t *random, const moecl_matrix *matrix, moecl_type storage,
                           struct projection *projection, double *norm)
{
    size_t rows = matrix->rows, columns = matrix->columns;
    double squares = 0;
    memset(projection->images, 0, PROJECTIONS * columns * sizeof(double));
    for (size_t o = 0; o < rows; o++) {
        moecl_reference_read_row(matrix, o, storage, projection->row);
        squares += moecl_reference_inner_product(projection->row, projection->row, columns);
        for (size_t p = 0; p < PROJECTIONS; p++) {
            double size = 1 + moecl_random_uniform(random);
            double r = moecl_random_next(random) & 1 ? size : -size;
            double *image = &projection->images[p * columns];
            projection->directions[p * rows + o] = r;
            for (size_t k = 0; k < columns; k++)
                image[k] += r * projection->row[k];
        }
    }
    *norm = sqrt(squares);
}

/* Checks the rows begin to end - 1 of a product, which are those of `matrix`, from column `column` of the output on. */
static moecl_status check_product(struct moecl_verification *verification, const struct product_rows *rows,
                                  const moecl_matrix *matrix, moecl_type storage, size_t begin, size_t end,
                                  size_t column)
{
    moecl_status status = MOECL_OK;
    struct projection projection = {0};
    size_t width = matrix->rows, depth = matrix->columns;
    double matrix_norm, tolerance = moecl_verify_rounding(depth);
    if (begin == end)
        return MOECL_OK;
    TRY(projection_allocate(&projection, width, depth));
    project_matrix(&verification->random, matrix, storage, &projection, &matrix_norm);
    for (size_t r = begin; r < end; r++) {
        size_t source = rows->sources != NULL ? rows->sources[r] / rows->divisor : r;
        const double *input = &rows->input[source * depth];
        const float *output = &rows->output[r * rows->stride + column];
        double scale = matrix_norm * sqrt(moecl_reference_inner_product(input, input, depth));
        for (size_t o = 0; o < width; o++)
            projection.row[o] = (double)output[o];
        for (size_t p = 0; p < PROJECTIONS; p++) {
            double expected = moecl_reference_inner_product(&projection.images[p * depth], input, depth);
            double got = moecl_reference_inner_product(&projection.directions[p * width], projection.row, width);
            moecl_verify_judge(verification, fabs(got - expected), tolerance * scale, scale,
                               "%s: row %zu projects to %.9g instead of %.9g", rows->what, r, got, expected);
        }
    }
out:
    projection_free(&projection);
    return status;
}

/* ------------------------------------------------------------------------------------------- the stages -- */

/* What the checks work on, besides the stages' own results. */
struct work {
    double *x;       /* [T,H], as the device sees it */
    double *logits;  /* [E], of a token */
    double *y;       /* [H], of a token */
    double *h;       /* [R,I] or [T,S], as the down product sees it */
    size_t *offsets; /* [E+1] */
    size_t *next;    /* [E] */
    size_t *sources; /* [R]: row -> assignment */
    int32_t *rows;   /* [R]: assignment -> row, or -1 */
};

static void work_free(struct work *work)
{
    moecl_free(work->x);
    moecl_free(work->logits);
    moecl_free(work->y);
    moecl_free(work->h);
    moecl_free(work->offsets);
    moecl_free(work->next);
    moecl_free(work->sources);
    moecl_free(work->rows);
}

static moecl_status work_make(struct work *work, const moecl_layer_options *options,
                              const struct moecl_verify_chunk *chunk)
{
    size_t values = chunk->tokens * options->hidden, assignments = chunk->tokens * options->top_k;
    size_t routed = assignments * options->intermediate, shared = chunk->tokens * options->shared_intermediate;
    work->x = moecl_allocate(values, sizeof(double));
    work->logits = moecl_allocate(options->experts, sizeof(double));
    work->y = moecl_allocate(options->hidden, sizeof(double));
    work->h = moecl_allocate(routed > shared ? routed : shared, sizeof(double));
    work->offsets = moecl_allocate(options->experts + 1, sizeof(size_t));
    work->next = moecl_allocate(options->experts, sizeof(size_t));
    work->sources = moecl_allocate(assignments, sizeof(size_t));
    work->rows = moecl_allocate(assignments, sizeof(int32_t));
    if (!work->x || !work->logits || !work->y || !work->h || !work->offsets || !work->next || !work->sources ||
        !work->rows)
        return MOECL_OUT_OF_HOST_MEMORY;
    moecl_reference_read(chunk->x, MOECL_F32, options->activations, values, work->x);
    return MOECL_OK;
}

static moecl_status check_logits(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged, const struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_weights *weights = verification->weights;
    size_t experts = verification->options->experts, columns = staged->router_columns;
    const float *router = staged->router.host, *logits = staged->logits.host;
    struct product_rows rows = {.what = "router", .input = work->x, .output = router, .stride = columns};
    TRY(check_product(verification, &rows, &weights->router, MOECL_F32, 0, chunk->tokens, 0));
    rows.what = "shared gate";
    if (columns > experts)
        TRY(check_product(verification, &rows, &weights->shared_gate, MOECL_F32, 0, chunk->tokens, experts));
    for (size_t t = 0; t < chunk->tokens; t++)
        if (memcmp(&router[t * columns], &logits[t * experts], experts * sizeof(float)) != 0)
            MOECL_VERIFY_WRONG(verification, "logits of token %zu: the route stage differs from the router's product",
                               chunk->first + t);
out:
    return status;
}

static void check_routing(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          const struct moecl_staged *staged, const struct work *work)
{
    const moecl_layer_options *options = verification->options;
    size_t experts = options->experts, top_k = options->top_k;
    const float *logits = staged->logits.host, *weights = staged->weights.host;
    const int32_t *ids = staged->ids.host;
    int32_t expected[MOECL_MAX_TOP_K];
    for (size_t t = 0; t < chunk->tokens; t++) {
        for (size_t e = 0; e < experts; e++)
            work->logits[e] = (double)logits[t * experts + e];
        moecl_reference_select(work->logits, experts, top_k, expected);
        if (memcmp(&ids[t * top_k], expected, top_k * sizeof(*ids)) != 0) {
            verification->report->id_mismatches++;
            MOECL_VERIFY_WRONG(verification, "the expert ids of token %zu", chunk->first + t);
        } else {
            moecl_verify_weights(verification, chunk->first + t, &weights[t * top_k], work->logits, 0, expected);
        }
    }
}

/* A stable counting sort of the assignments by expert. */
static void sort_assignments(const int32_t *ids, size_t assignments, size_t experts, struct work *work)
{
    memset(work->offsets, 0, (experts + 1) * sizeof(size_t));
    for (size_t a = 0; a < assignments; a++)
        if (ids[a] >= 0 && (size_t)ids[a] < experts)
            work->offsets[ids[a] + 1]++;
    for (size_t e = 0; e < experts; e++) {
        work->offsets[e + 1] += work->offsets[e];
        work->next[e] = work->offsets[e];
    }
    for (size_t a = 0; a < assignments; a++) {
        work->rows[a] = -1;
        if (ids[a] >= 0 && (size_t)ids[a] < experts) {
            size_t row = work->next[ids[a]]++;
            work->rows[a] = (int32_t)row;
            work->sources[row] = a;
        }
    }
}

/* Sorts the assignments by the device's ids and compares; what follows uses the host's permutation, so that it cannot
 * be led astray. */
static void check_permutation(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                              const struct moecl_staged *staged, struct work *work)
{
    size_t experts = verification->options->experts, assignments = chunk->tokens * verification->options->top_k;
    const int32_t *ids = staged->ids.host, *rows = staged->rows.host;
    const uint32_t *offsets = staged->offsets.host, *sources = staged->assignments.host;
    sort_assignments(ids, assignments, experts, work);
    for (size_t e = 0; e <= experts; e++)
        if (offsets[e] != work->offsets[e])
            MOECL_VERIFY_WRONG(verification, "permutation: offset %zu is %u instead of %zu", e, (unsigned)offsets[e],
                               work->offsets[e]);
    for (size_t r = 0; r < work->offsets[experts]; r++)
        if (sources[r] != work->sources[r])
            MOECL_VERIFY_WRONG(verification, "permutation: row %zu has assignment %u instead of %zu", r,
                               (unsigned)sources[r], work->sources[r]);
    for (size_t a = 0; a < assignments; a++)
        if (rows[a] != work->rows[a])
            MOECL_VERIFY_WRONG(verification, "permutation: assignment %zu has row %d instead of %d", a, (int)rows[a],
                               (int)work->rows[a]);
}

/* h = silu(gate x) * (up x). exp is off by at most 3 units in the last place, a division by 2.5; the rest is half a
 * unit each. Where exp(-gate) leaves fp32, h is as good as zero. */
static void check_activation(struct moecl_verification *verification, const char *what, const float *linear,
                             const float *h, size_t rows, size_t width)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < width; i++) {
            double gate = (double)linear[r * 2 * width + i], up = (double)linear[r * 2 * width + width + i];
            double expected = moecl_reference_silu(gate) * up, got = (double)h[r * width + i];
            double scale = fabs(expected) + 0x1p-100 * (1 + fabs(up));
            moecl_verify_judge(verification, fabs(got - expected), 16 * moecl_verify_roundoff(MOECL_F32) * scale, scale,
                               "%s: element %zu of row %zu is %.9g instead of %.9g", what, i, r, got, expected);
        }
}

static moecl_status check_experts(struct moecl_verification *verification, const struct moecl_staged *staged,
                                  struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    size_t intermediate = options->intermediate, rows = work->offsets[options->experts];
    const struct product_rows gate = {"gate",          work->x, work->sources, options->top_k, staged->linear.host,
                                      2 * intermediate};
    const struct product_rows up = {
        "up", work->x, work->sources, options->top_k, staged->linear.host, 2 * intermediate};
    const struct product_rows down = {"down", work->h, NULL, 1, staged->z.host, options->hidden};
    check_activation(verification, "h", staged->linear.host, staged->h.host, rows, intermediate);
    moecl_reference_read(staged->h.host, MOECL_F32, verification->h_type, rows * intermediate, work->h);
    for (size_t e = 0; e < options->experts; e++) {
        const moecl_expert_weights *expert = &verification->weights->experts[e];
        size_t begin = work->offsets[e], end = work->offsets[e + 1];
        TRY(check_product(verification, &gate, &expert->gate, options->weights, begin, end, 0));
        TRY(check_product(verification, &up, &expert->up, options->weights, begin, end, intermediate));
        TRY(check_product(verification, &down, &expert->down, options->weights, begin, end, 0));
    }
out:
    return status;
}

static moecl_status check_shared(struct moecl_verification *verification, size_t tokens,
                                 const struct moecl_staged *staged, struct work *work)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = verification->options;
    const moecl_expert_weights *shared = &verification->weights->shared;
    size_t width = options->shared_intermediate;
    const struct product_rows gate = {"shared gate projection",   work->x,  NULL, 1,
                                      staged->shared_linear.host, 2 * width};
    const struct product_rows up = {"shared up", work->x, NULL, 1, staged->shared_linear.host, 2 * width};
    const struct product_rows down = {"shared down", work->h, NULL, 1, staged->shared_z.host, options->hidden};
    if (width == 0)
        return MOECL_OK;
    check_activation(verification, "shared h", staged->shared_linear.host, staged->shared_h.host, tokens, width);
    moecl_reference_read(staged->shared_h.host, MOECL_F32, verification->h_type, tokens * width, work->h);
    TRY(check_product(verification, &gate, &shared->gate, options->weights, 0, tokens, 0));
    TRY(check_product(verification, &up, &shared->up, options->weights, 0, tokens, width));
    TRY(check_product(verification, &down, &shared->down, options->weights, 0, tokens, 0));
out:
    return status;
}

/* y from the device's weights, expert outputs and shared gate: k + 1 products and sums, a sigmoid, and y's rounding. */
static void check_combine(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          const struct moecl_staged *staged, const struct work *work)
{
    const moecl_layer_options *options = verification->options;
    const size_t hidden = options->hidden, top_k = options->top_k, columns = staged->router_columns;
    const float *weights = staged->weights.host, *z = staged->z.host, *shared = staged->shared_z.host;
    const float *router = staged->router.host;
    const char *y = staged->y.host;
    const double units = 2 * ((double)top_k + 1) + (shared != NULL ? 16 : 0);
    for (size_t t = 0; t < chunk->tokens; t++) {
        double scale = 1;
        if (columns > options->experts)
            scale = moecl_reference_sigmoid((double)router[t * columns + options->experts]);
        moecl_reference_read(y + t * hidden * moecl_type_size(options->activations), options->activations,
                             options->activations, hidden, work->y);
        for (size_t c = 0; c < hidden; c++) {
            double expected = 0, magnitude = 0;
            for (size_t a = t * top_k; a < (t + 1) * top_k; a++) {
                double output = work->rows[a] >= 0 ? (double)z[(size_t)work->rows[a] * hidden + c] : 0;
                expected += (double)weights[a] * output;
                magnitude += fabs((double)weights[a] * output);
            }
            if (shared != NULL) {
                expected += scale * (double)shared[t * hidden + c];
                magnitude += fabs(scale * (double)shared[t * hidden + c]);
            }
            double allowed = units * moecl_verify_roundoff(MOECL_F32) * magnitude +
                             moecl_verify_rounding_of(expected, options->activations);
            moecl_verify_judge(verification, fabs(work->y[c] - expected), allowed, magnitude,
                               "combine: token %zu, column %zu is %.9g instead of %.9g", chunk->first + t, c,
                               work->y[c], expected);
        }
    }
}

/* The forward pass is its stages. */
static void check_forward(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                          const struct moecl_staged *staged)
{
    const moecl_layer_options *options = verification->options;
    size_t y_bytes = options->hidden * moecl_type_size(options->activations), routing_bytes = options->top_k * 4;
    for (size_t t = 0; t < chunk->tokens; t++) {
        size_t at = t * y_bytes, routing_at = t * options->top_k;
        if (memcmp(&chunk->ids[routing_at], (int32_t *)staged->ids.host + routing_at, routing_bytes) != 0 ||
            memcmp(&chunk->weights[routing_at], (float *)staged->weights.host + routing_at, routing_bytes) != 0)
            MOECL_VERIFY_WRONG(verification, "the forward pass routes token %zu in other bits than the route stage",
                               chunk->first + t);
        if (memcmp((char *)chunk->y + at, (char *)staged->y.host + at, y_bytes) != 0)
            MOECL_VERIFY_WRONG(verification, "the forward pass gives other bits than its stages for token %zu",
                               chunk->first + t);
    }
}

moecl_status moecl_verify_staged(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk,
                                 const struct moecl_staged *staged)
{
    moecl_status status = MOECL_OK;
    struct work work = {0};
    TRY(work_make(&work, verification->options, chunk));
    TRY(check_logits(verification, chunk, staged, &work));
    check_routing(verification, chunk, staged, &work);
    check_permutation(verification, chunk, staged, &work);
    TRY(check_experts(verification, staged, &work));
    TRY(check_shared(verification, chunk->tokens, staged, &work));
    check_combine(verification, chunk, staged, &work);
    check_forward(verification, chunk, staged);
out:
    work_free(&work);
    if (status == MOECL_OUT_OF_HOST_MEMORY)
        moecl_error_set(&verification->context->error, status, "moecl_verify: no host memory to project %zu tokens",
                        chunk->tokens);
    return status;
}

moecl_status moecl_verify_project(struct moecl_verification *verification, const struct moecl_verify_chunk *chunk)
{
    moecl_status status = MOECL_OK;
    struct moecl_staged staged = {0};
    TRY(moecl_staged_run(verification, chunk, &staged));
    TRY(moecl_verify_staged(verification, chunk, &staged));
out:
    moecl_staged_free(&staged);
    return status;
}
