/* SPDX-License-Identifier: Apache-2.0 */
/* test_function.c - what experts compute: every function, gated or not, with biases and weights on their input, in
 * every variant and type, against double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "device/buffer.h"
#include "experts/matrices.h"
#include "random.h"
#include "strided.h"

/* ------------------------------------------------------------------------------------------------ the functions -- */

static double activate(const moecl_expert_function *function, double g)
{
    const double alpha = function->alpha == 0 ? 1 : (double)function->alpha;
    switch (function->activation) {
    case MOECL_ACTIVATION_SILU:
        return g / (1 + exp(-alpha * g));
    case MOECL_ACTIVATION_GELU:
        return g * (1 + erf(g / sqrt(2))) / 2;
    case MOECL_ACTIVATION_GELU_TANH:
        return g * (1 + tanh(sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g))) / 2;
    case MOECL_ACTIVATION_RELU:
        return g < 0 ? 0 : g;
    case MOECL_ACTIVATION_RELU_SQUARED:
        return g < 0 ? 0 : g * g;
    case MOECL_ACTIVATION_IDENTITY:
        return g;
    }
    return NAN;
}

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

static double expert(const moecl_expert_function *function, double g, double u)
{
    const double limit = (double)function->limit;
    if (function->clamp == MOECL_CLAMP_BEFORE)
        g = clamp(g, -INFINITY, limit);
    double h = activate(function, g);
    if (function->clamp == MOECL_CLAMP_AFTER)
        h = clamp(h, -INFINITY, limit);
    if (function->ungated)
        return h;
    if (function->clamp != MOECL_CLAMP_NONE)
        u = clamp(u, -limit, limit);
    return h * (u + (double)function->up_offset);
}

/* The number-th of all combinations of activation, gate and clamp. */
enum { FUNCTIONS = (MOECL_ACTIVATION_IDENTITY + 1) * 2 * 3 };
static moecl_expert_function numbered_function(size_t number)
{
    const float alphas[] = {0, 1.702f}, limits[] = {0.75f, 1.5f}, offsets[] = {0, 1, -0.5f};
    return (moecl_expert_function){.activation = (moecl_activation)(number % 6),
                                   .ungated = number / 6 % 2 == 1,
                                   .clamp = (moecl_clamp)(number / 12 % 3),
                                   .alpha = alphas[(number / 6 + number / 12) % 2],
                                   .limit = limits[number % 2],
                                   .up_offset = offsets[(number + number / 6) % 3]};
}

/* --------------------------------------------------------------------------------------------------- products -- */

/* A group's matrices on the host: as given, and their values as stored, as doubles. */
struct group {
    struct strided matrix, up, bias, up_bias;
    double *gate_values, *up_values, *gate_biases, *up_biases;
};

struct product {
    moecl_matrices_options options;
    struct group *groups;
    moecl_matrices *packed;
};

/* Random values [rows, columns] in a random shape of memory. */
static double *random_values(uint64_t *seed, moecl_type type, size_t rows, size_t columns, struct strided *made)
{
    *made = strided_make(seed, random_between(seed, 0, STRIDED_KINDS - 1), type, rows, columns);
    return strided_doubles(made);
}

static bool gated(const moecl_matrices_options *options)
{
    return options->activated && !options->function.ungated;
}

static struct product product_make(moecl_context *context, struct moecl_gemm *gemm,
                                   const moecl_matrices_options *options, uint64_t *seed)
{
    struct product product = {.options = *options, .groups = make(options->groups, sizeof(struct group))};
    ASSERT_OK(context, gemm ? moecl_matrices_create_for(gemm, options, MOECL_NEVER_IN_PAIRS, &product.packed)
                            : moecl_matrices_create(context, options, &product.packed));
    for (size_t g = 0; g < options->groups; g++) {
        struct group *group = &product.groups[g];
        group->gate_values = random_values(seed, options->weights, options->out, options->in, &group->matrix);
        if (gated(options))
            group->up_values = random_values(seed, options->weights, options->out, options->in, &group->up);
        if (options->biased)
            group->gate_biases = random_values(seed, options->weights, 1, options->out, &group->bias);
        if (options->biased && gated(options))
            group->up_biases = random_values(seed, options->weights, 1, options->out, &group->up_bias);
        moecl_group_weights weights = {group->matrix.matrix, group->up.matrix, group->bias.matrix,
                                       group->up_bias.matrix};
        ASSERT_OK(context, moecl_matrices_set(product.packed, g, &weights));
    }
    return product;
}

static void product_free(struct product *product)
{
    for (size_t g = 0; g < product->options.groups; g++) {
        struct group *group = &product->groups[g];
        struct strided *matrices[] = {&group->matrix, &group->up, &group->bias, &group->up_bias};
        for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++)
            strided_free(matrices[i]);
        free(group->gate_values);
        free(group->up_values);
        free(group->gate_biases);
        free(group->up_biases);
    }
    free(product->groups);
    moecl_matrices_destroy(product->packed);
}

static double row_product(const double *matrix, const double *biases, size_t row, size_t depth, const double *x)
{
    double sum = biases ? biases[row] : 0;
    for (size_t k = 0; k < depth; k++)
        sum += matrix[row * depth + k] * x[k];
    return sum;
}

/* Of group g and input x: [N] of h, or of the plain product, or [2N] linear. */
static void expected_row(const struct product *product, moecl_product kind, size_t g, const double *x, double *to)
{
    const moecl_matrices_options *options = &product->options;
    const struct group *group = &product->groups[g];
    for (size_t n = 0; n < options->out; n++) {
        const double gate = row_product(group->gate_values, group->gate_biases, n, options->in, x);
        const double up = gated(options) ? row_product(group->up_values, group->up_biases, n, options->in, x) : 0;
        to[n] = options->activated && kind == MOECL_PRODUCT_ACTIVATED ? expert(&options->function, gate, up) : gate;
        if (gated(options) && kind == MOECL_PRODUCT_LINEAR)
            to[options->out + n] = up;
    }
}

/* Random rows spread over the groups, read through assignments, weighted or not. */
struct rows {
    size_t count, divisor, inputs;
    uint32_t *offsets, *assignments;
    float *weights; /* by assignment */
    double *x;      /* [count][K], as the product sees them */
    struct array input, device_offsets, device_assignments, device_weights;
};

static struct rows rows_make(moecl_context *context, const moecl_matrices_options *options, uint64_t *seed)
{
    struct rows rows = {.count = random_between(seed, 1, small_sizes() ? 12 : 40),
                        .divisor = random_between(seed, 1, 3)};
    const size_t groups = options->groups, depth = options->in, assignments = rows.count + 5;
    rows.inputs = assignments / rows.divisor + 1;
    rows.offsets = make(groups + 1, sizeof *rows.offsets);
    rows.assignments = make(rows.count, sizeof *rows.assignments);
    rows.weights = make(assignments, sizeof *rows.weights);
    rows.x = make(rows.count * depth, sizeof *rows.x);
    for (size_t g = 1; g < groups; g++)
        rows.offsets[g] = (uint32_t)random_between(seed, rows.offsets[g - 1], rows.count);
    rows.offsets[groups] = (uint32_t)rows.count;
    for (size_t r = 0; r < rows.count; r++)
        rows.assignments[r] = (uint32_t)random_between(seed, 0, assignments - 1);
    random_fill(seed, 1, rows.weights, assignments);
    float *values = make(rows.inputs * depth, sizeof *values);
    random_fill(seed, 1.5, values, rows.inputs * depth);
    rows.input = array_of(context, options->activations, values, rows.inputs * depth);
    rows.device_offsets = array_make(context, (groups + 1) * sizeof *rows.offsets, rows.offsets);
    rows.device_assignments = array_make(context, rows.count * sizeof *rows.assignments, rows.assignments);
    rows.device_weights = array_make(context, assignments * sizeof *rows.weights, rows.weights);
    free(values);
    return rows;
}

/* rows.x, out of the input on the device. */
static void rows_gather(moecl_context *context, struct rows *rows, const moecl_matrices_options *options, bool weighted)
{
    double *input = array_doubles(context, rows->input, options->activations);
    for (size_t i = 0; i < rows->count * options->in; i++) {
        const uint32_t assignment = rows->assignments[i / options->in];
        rows->x[i] = input[assignment / rows->divisor * options->in + i % options->in] *
                     (weighted ? (double)rows->weights[assignment] : 1);
    }
    free(input);
}

static void rows_free(struct rows *rows)
{
    struct array *arrays[] = {&rows->input, &rows->device_offsets, &rows->device_assignments, &rows->device_weights};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_release(arrays[i]);
    free(rows->offsets);
    free(rows->assignments);
    free(rows->weights);
    free(rows->x);
}

/* The public product, activated and linear, weighted and not. */
static void check_public(moecl_context *context, const struct product *product, struct rows *rows)
{
    const moecl_matrices_options *options = &product->options;
    for (size_t i = 0; i < 4; i++) {
        const moecl_product kind = i % 2 ? MOECL_PRODUCT_LINEAR : MOECL_PRODUCT_ACTIVATED;
        const size_t columns = kind == MOECL_PRODUCT_LINEAR && gated(options) ? 2 * options->out : options->out;
        struct array output = array_make(context, rows->count * columns * sizeof(float), NULL);
        struct array workspace =
            array_make(context, moecl_grouped_gemm_workspace_size(product->packed, rows->count), NULL);
        moecl_grouped_gemm_call call = {.rows = rows->count,
                                        .input = rows->input.buffer,
                                        .input_type = options->activations,
                                        .assignments = rows->device_assignments.buffer,
                                        .divisor = rows->divisor,
                                        .offsets = rows->device_offsets.buffer,
                                        .product = kind,
                                        .output = output.buffer,
                                        .workspace = workspace.buffer};
        if (i / 2)
            call.row_weights = rows->device_weights.buffer;
        ASSERT_OK(context, moecl_grouped_gemm(product->packed, &call, 0, NULL, NULL));
        double *got = array_doubles(context, output, MOECL_F32);
        double *expected = make(rows->count * columns, sizeof *expected);
        rows_gather(context, rows, options, i / 2);
        for (size_t g = 0; g < options->groups; g++)
            for (size_t r = rows->offsets[g]; r < rows->offsets[g + 1]; r++)
                expected_row(product, kind, g, &rows->x[r * options->in], &expected[r * columns]);
        ASSERT_CLOSE(got, expected, rows->count * columns, 1e-5);
        free(array_bytes(context, workspace));
        free(got);
        free(expected);
        array_release(&output);
        array_release(&workspace);
    }
}

/* A layer's way: h goes to the down product in the variant's own form, weights on the input. */
static void check_chain(moecl_context *context, const struct product *up, const struct product *down, struct rows *rows)
{
    struct moecl_gemm *gemm = up->packed->gemm;
    const struct moecl_variant *variant = gemm->variant;
    const size_t groups = up->options.groups, count = rows->count, out = down->options.out;
    struct array map = array_make(context, variant->map_bytes(gemm, groups, count), NULL);
    struct array x = array_make(context, variant->packed_bytes(gemm, groups, count, up->options.in), NULL);
    struct array h = array_make(context, variant->packed_bytes(gemm, groups, count, down->options.in), NULL);
    struct array z = array_make(context, count * out * sizeof(float), NULL);
    const size_t first = variant->scratch_bytes(gemm, up->packed, count);
    const size_t second = variant->scratch_bytes(gemm, down->packed, count);
    struct array scratch = array_make(context, first > second ? first : second, NULL);
    struct moecl_grouping *grouping = make(1, sizeof *grouping);
    *grouping = (struct moecl_grouping){
        .groups = groups, .rows = count, .offsets = rows->device_offsets.buffer, .map = map.buffer};
    const struct moecl_pack pack = {.x = rows->input.buffer,
                                    .type = up->options.activations,
                                    .depth = up->options.in,
                                    .assignments = rows->device_assignments.buffer,
                                    .divisor = rows->divisor,
                                    .row_weights = rows->device_weights.buffer,
                                    .packed = x.buffer};
    const struct moecl_multiply multiply = {.matrices = up->packed,
                                            .packed = x.buffer,
                                            .form = MOECL_FORM_ACTIVATED_PACKED,
                                            .output = h.buffer,
                                            .scratch = scratch.buffer};
    const struct moecl_multiply next = {.matrices = down->packed,
                                        .packed = h.buffer,
                                        .form = MOECL_FORM_ROWS,
                                        .output = z.buffer,
                                        .scratch = scratch.buffer};
    struct moecl_chain chain;
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, variant->group(gemm, &chain, grouping));
    ASSERT_OK(context, variant->pack(gemm, &chain, grouping, &pack));
    ASSERT_OK(context, variant->multiply(gemm, &chain, grouping, &multiply));
    ASSERT_OK(context, variant->multiply(gemm, &chain, grouping, &next));
    ASSERT_OK(context, moecl_chain_end(&chain, MOECL_OK, NULL));

    double *got = array_doubles(context, z, MOECL_F32), *expected = make(count * out, sizeof *expected);
    double *activated = make(up->options.out, sizeof *activated);
    rows_gather(context, rows, &up->options, true);
    for (size_t g = 0; g < groups; g++)
        for (size_t r = rows->offsets[g]; r < rows->offsets[g + 1]; r++) {
            expected_row(up, MOECL_PRODUCT_ACTIVATED, g, &rows->x[r * up->options.in], activated);
            expected_row(down, MOECL_PRODUCT_ACTIVATED, g, activated, &expected[r * out]);
        }
    ASSERT_CLOSE(got, expected, count * out, 1e-5);
    free(array_bytes(context, x));
    free(array_bytes(context, h));
    free(array_bytes(context, scratch));
    free(array_bytes(context, map));
    free(got);
    free(expected);
    free(activated);
    free(grouping);
    struct array *arrays[] = {&map, &x, &h, &z, &scratch};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_release(arrays[i]);
}

/* Every function, in each variant; biases and types go around. */
static void every_function_in_every_variant(void **state)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    const size_t most = small_sizes() ? 20 : 70;
    for (size_t v = 0; moecl_variant_name(v); v++)
        for (size_t number = 0; number < FUNCTIONS; number++) {
            /* Where building is slow: each activation once, and each gate with each clamp. */
            if (small_sizes() && number % 6 != (number / 6 + 3 * v) % 6)
                continue;
            uint64_t seed = 1000 * v + number + 1;
            moecl_matrices_options options = {.groups = random_between(&seed, 1, 4),
                                              .out = random_between(&seed, 1, most),
                                              .in = random_between(&seed, 1, most),
                                              .activated = true,
                                              .function = numbered_function(number),
                                              .biased = (number + number / 12) % 2 == v % 2,
                                              .weights = types[(number + v) % 3],
                                              .activations = types[(number / 3 + v) % 3],
                                              .variant = moecl_variant_name(v)};
            moecl_matrices_options down = {.groups = options.groups,
                                           .out = random_between(&seed, 1, most),
                                           .in = options.out,
                                           .biased = random_between(&seed, 0, 1) == 1,
                                           .weights = options.weights,
                                           .activations = MOECL_F32};
            print_message("           %s: %s%s, clamp %s%s, G %zu, N %zu, K %zu, %s, activations %s\n", options.variant,
                          moecl_choice_name(MOECL_CHOICE_ACTIVATION, (int)options.function.activation),
                          options.function.ungated ? ", ungated" : "",
                          moecl_choice_name(MOECL_CHOICE_CLAMP, (int)options.function.clamp),
                          options.biased ? ", biased" : "", options.groups, options.out, options.in,
                          moecl_type_name(options.weights), moecl_type_name(options.activations));
            struct product first = product_make(*state, NULL, &options, &seed);
            struct product second = product_make(*state, first.packed->gemm, &down, &seed);
            struct rows rows = rows_make(*state, &options, &seed);
            check_public(*state, &first, &rows);
            check_chain(*state, &first, &second, &rows);
            rows_free(&rows);
            product_free(&second);
            product_free(&first);
        }
}

/* ---------------------------------------------------------------------------------------------------- extremes -- */

/* Large, tiny and no numbers through each activation, ungated, with a matrix of ones: no overflow on the way makes NaN
 * of a number, and no comparison makes a number of NaN. */
static void extreme_values(void **state)
{
    const float values[] = {0.0f,   -0.0f,   1e-30f, -1e-30f, 0.5f,  -0.5f,  5.0f,  -5.0f,
                            12.0f,  -12.0f,  87.4f,  -87.4f,  88.0f, -88.0f, 88.6f, -88.6f,
                            104.0f, -104.0f, 1e15f,  -1e15f,  3e38f, -3e38f, NAN};
    enum { COUNT = sizeof(values) / sizeof(values[0]) };
    const float one = 1;
    const uint32_t offsets[] = {0, COUNT};
    for (size_t v = 0; moecl_variant_name(v); v++)
        for (size_t number = 0; number < FUNCTIONS; number++) {
            moecl_matrices_options options = {.groups = 1,
                                              .out = 1,
                                              .in = 1,
                                              .activated = true,
                                              .function = numbered_function(number),
                                              .variant = moecl_variant_name(v)};
            options.function.ungated = true;
            /* a clamp does the same after each */
            const bool clamped = options.function.clamp != MOECL_CLAMP_NONE;
            if (number / 6 % 2 == 0 || (clamped && options.function.activation != MOECL_ACTIVATION_IDENTITY))
                continue;
            moecl_matrices *matrices;
            ASSERT_OK(*state, moecl_matrices_create(*state, &options, &matrices));
            ASSERT_OK(*state,
                      moecl_matrices_set(matrices, 0, &(moecl_group_weights){.matrix = {&one, MOECL_F32, 1, 1, 0, 0}}));
            struct array input = array_of(*state, MOECL_F32, values, COUNT);
            struct array device_offsets = array_make(*state, sizeof(offsets), offsets);
            struct array output = array_make(*state, sizeof(values), NULL);
            struct array workspace = array_make(*state, moecl_grouped_gemm_workspace_size(matrices, COUNT), NULL);
            moecl_grouped_gemm_call call = {.rows = COUNT,
                                            .input = input.buffer,
                                            .offsets = device_offsets.buffer,
                                            .output = output.buffer,
                                            .workspace = workspace.buffer};
            ASSERT_OK(*state, moecl_grouped_gemm(matrices, &call, 0, NULL, NULL));
            double *got = array_doubles(*state, output, MOECL_F32);
            for (size_t i = 0; i < COUNT; i++) {
                const double g = (double)values[i], expected = (double)(float)expert(&options.function, g, 0);
                const double tolerance = 1e-5 * fabs(expected) + 1e-6 * fmin(fabs(g), 20);
                if (isnan(expected) ? !isnan(got[i]) : !(got[i] == expected || fabs(got[i] - expected) <= tolerance))
                    fail_msg("%s, %s, clamp %s: of %g comes %g, must be %g", options.variant,
                             moecl_choice_name(MOECL_CHOICE_ACTIVATION, (int)options.function.activation),
                             moecl_choice_name(MOECL_CHOICE_CLAMP, (int)options.function.clamp), g, got[i], expected);
            }
            free(got);
            struct array *arrays[] = {&input, &device_offsets, &output, &workspace};
            for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
                array_release(arrays[i]);
            moecl_matrices_destroy(matrices);
        }
}

/* ------------------------------------------------------------------------------------------------------ strides -- */

/* The packed bytes of a group's matrices. */
static unsigned char *packed_bytes(moecl_context *context, const moecl_matrices *matrices, size_t group)
{
    const struct moecl_part part = moecl_matrices_part(matrices, group / matrices->groups_a_part);
    unsigned char *bytes = make(matrices->group_bytes, 1);
    ASSERT_OK(context,
              moecl_buffer_read(context, moecl_buffer_at(part.buffer, (group - part.first) * matrices->group_bytes),
                                matrices->group_bytes, bytes));
    return bytes;
}

/* The same weights without strides, and row by row in two calls, give the same bits. */
static void strides_give_the_same_bits(void **state)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    for (uint64_t number = 0; number < random_cases(); number++) {
        uint64_t seed = number + 1;
        moecl_matrices_options options = {.groups = 2,
                                          .out = random_between(&seed, 2, 60),
                                          .in = random_between(&seed, 1, 150),
                                          .activated = random_between(&seed, 0, 1) == 1,
                                          .biased = true,
                                          .weights = types[number % 3],
                                          .variant = moecl_variant_name(number % 2) ? moecl_variant_name(number % 2)
                                                                                    : moecl_variant_name(0)};
        struct product product = product_make(*state, NULL, &options, &seed);
        struct group *group = &product.groups[1];
        unsigned char *expected = packed_bytes(*state, product.packed, 1);
        struct strided gate = strided_copy_plain(&group->matrix);
        struct strided up = {0};
        if (options.activated)
            up = strided_copy_plain(&group->up);
        moecl_group_weights weights = {gate.matrix, up.matrix, group->bias.matrix, group->up_bias.matrix};
        ASSERT_OK(*state, moecl_matrices_set(product.packed, 0, &weights));
        unsigned char *got = packed_bytes(*state, product.packed, 0);
        assert_memory_equal(got, expected, product.packed->group_bytes);
        free(got);

        /* in two halves, the second one first, over other weights */
        struct strided other = strided_make(&seed, STRIDED_PLAIN, options.weights, options.out, options.in);
        struct strided other_up = strided_make(&seed, STRIDED_PLAIN, options.weights, options.out, options.in);
        weights =
            (moecl_group_weights){.matrix = other.matrix, .bias = group->bias.matrix, .up_bias = group->up_bias.matrix};
        if (options.activated)
            weights.up = other_up.matrix;
        ASSERT_OK(*state, moecl_matrices_set(product.packed, 0, &weights));
        const size_t middle = random_between(&seed, 1, options.out - 1);
        const size_t firsts[] = {middle, 0}, ends[] = {options.out, middle};
        for (size_t i = 0; i < 2; i++) {
            moecl_group_weights half = {.matrix =
                                            moecl_matrix_rows(&group->matrix.matrix, firsts[i], ends[i] - firsts[i])};
            if (options.activated)
                half.up = moecl_matrix_rows(&group->up.matrix, firsts[i], ends[i] - firsts[i]);
            ASSERT_OK(*state, moecl_matrices_set_rows(product.packed, 0, firsts[i], &half));
        }
        got = packed_bytes(*state, product.packed, 0);
        assert_memory_equal(got, expected, product.packed->group_bytes);
        free(got);

        /* without a word about them, the biases stayed */
        float *biases = make(2 * options.out, sizeof *biases), *others = make(2 * options.out, sizeof *others);
        const size_t bytes = (options.activated ? 2 : 1) * options.out * sizeof *biases;
        ASSERT_OK(*state, moecl_buffer_read(*state, moecl_matrices_bias(product.packed, 0), bytes, biases));
        ASSERT_OK(*state, moecl_buffer_read(*state, moecl_matrices_bias(product.packed, 1), bytes, others));
        assert_memory_equal(biases, others, bytes);
        free(biases);
        free(others);
        free(expected);
        strided_free(&gate);
        strided_free(&up);
        strided_free(&other);
        strided_free(&other_up);
        product_free(&product);
    }
}

/* ---------------------------------------------------------------------------------------------------- refusals -- */

static void refuses_what_makes_no_sense(void **state)
{
    const moecl_expert_function wrong[] = {
        {.activation = (moecl_activation)6},
        {.activation = (moecl_activation)-1},
        {.clamp = (moecl_clamp)3},
        {.clamp = MOECL_CLAMP_BEFORE, .limit = -1},
        {.clamp = MOECL_CLAMP_AFTER, .limit = NAN},
        {.alpha = INFINITY},
        {.up_offset = NAN},
    };
    moecl_matrices *matrices;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        moecl_matrices_options options = {.groups = 1, .out = 2, .in = 2, .activated = true, .function = wrong[i]};
        assert_int_equal(moecl_matrices_create(*state, &options, &matrices), MOECL_INVALID_ARGUMENT);
        assert_null(matrices);
        options.activated = false; /* then nobody looks at it */
        ASSERT_OK(*state, moecl_matrices_create(*state, &options, &matrices));
        moecl_matrices_destroy(matrices);
    }

    const float values[4] = {0};
    const moecl_matrix square = {values, MOECL_F32, 2, 2, 0, 0}, row = {values, MOECL_F32, 1, 2, 0, 0};
    const struct {
        bool activated, ungated, biased;
        moecl_group_weights weights;
        moecl_status status;
    } cases[] = {
        {false, false, false, {square, {0}, {0}, {0}}, MOECL_OK},
        {false, false, false, {square, square, {0}, {0}}, MOECL_INVALID_ARGUMENT},
        {false, false, false, {square, {0}, row, {0}}, MOECL_INVALID_ARGUMENT},
        {false, false, true, {square, {0}, {0}, {0}}, MOECL_INVALID_ARGUMENT},
        {false, false, true, {square, {0}, row, {0}}, MOECL_OK},
        {false, false, true, {square, {0}, square, {0}}, MOECL_INVALID_ARGUMENT},
        {true, true, true, {square, {0}, row, {0}}, MOECL_OK},
        {true, true, true, {square, square, row, row}, MOECL_INVALID_ARGUMENT},
        {true, false, true, {square, square, row, row}, MOECL_OK},
        {true, false, true, {square, square, row, {0}}, MOECL_INVALID_ARGUMENT},
        {true, false, false, {square, {0}, {0}, {0}}, MOECL_INVALID_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        moecl_matrices_options options = {.groups = 1,
                                          .out = 2,
                                          .in = 2,
                                          .activated = cases[i].activated,
                                          .function = {.ungated = cases[i].ungated},
                                          .biased = cases[i].biased};
        ASSERT_OK(*state, moecl_matrices_create(*state, &options, &matrices));
        assert_int_equal(moecl_matrices_set(matrices, 0, &cases[i].weights), cases[i].status);
        moecl_matrices_destroy(matrices);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_function_in_every_variant),
        cmocka_unit_test(extreme_values),
        cmocka_unit_test(strides_give_the_same_bits),
        cmocka_unit_test(refuses_what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
