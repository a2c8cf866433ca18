/* SPDX-License-Identifier: Apache-2.0 */
/* test_stages.c - every stage by itself, on random input, against plain host code. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "layers.h"
#include "random.h"
#include "stages/combine.h"
#include "stages/flag.h"
#include "stages/permute.h"

static double silu(double value)
{
    return value / (1 + exp(-value));
}

/* ---------------------------------------------------------------------------------------------------- permute -- */

static void check_permutation(moecl_context *context, size_t tokens, size_t top_k, size_t experts, uint64_t seed)
{
    size_t count = tokens * top_k, bytes = moecl_permute_workspace_size(tokens, top_k, experts);
    print_message("           seed %llu: T %zu, k %zu, E %zu\n", (unsigned long long)seed, tokens, top_k, experts);
    int32_t *ids = make(count, sizeof *ids);
    size_t busiest = random_between(&seed, 1, experts); /* the experts behind it get none */
    for (size_t a = 0; a < count; a++)
        ids[a] = random_between(&seed, 0, 19) == 0 ? (random_between(&seed, 0, 1) ? -1 : (int32_t)experts)
                                                   : (int32_t)random_between(&seed, 0, busiest - 1);
    struct array device_ids = array_make(context, count * sizeof *ids, ids);
    struct array offsets = array_make(context, (experts + 1) * sizeof(uint32_t), NULL);
    struct array assignments = array_make(context, count * sizeof(uint32_t), NULL);
    struct array rows = array_make(context, count * sizeof(int32_t), NULL);
    struct array workspace = array_make(context, bytes, NULL);
    moecl_permutation permutation = {offsets.buffer, assignments.buffer, rows.buffer};
    ASSERT_OK(context, moecl_permute(context, tokens, top_k, experts, device_ids.buffer, &permutation, workspace.buffer,
                                     0, NULL, NULL));

    uint32_t *got_offsets = array_bytes(context, offsets), *got_assignments = array_bytes(context, assignments);
    int32_t *got_rows = array_bytes(context, rows);
    free(array_bytes(context, workspace));
    uint32_t row = 0;
    for (size_t e = 0; e < experts; e++) {
        assert_int_equal(got_offsets[e], row);
        for (size_t a = 0; a < count; a++) {
            if (ids[a] != (int32_t)e)
                continue;
            assert_int_equal(got_assignments[row], a);
            assert_int_equal(got_rows[a], row);
            row++;
        }
    }
    assert_int_equal(got_offsets[experts], row);
    for (size_t a = 0; a < count; a++)
        if (ids[a] < 0 || (size_t)ids[a] >= experts)
            assert_int_equal(got_rows[a], -1);
    free(got_offsets);
    free(got_assignments);
    free(got_rows);
    free(ids);
    array_release(&device_ids);
    array_release(&offsets);
    array_release(&assignments);
    array_release(&rows);
    array_release(&workspace);
}

static void permute_is_a_stable_sort(void **state)
{
    for (uint64_t seed = 1; seed <= random_cases(); seed++) {
        uint64_t numbers = seed;
        size_t experts = random_between(&numbers, 1, small_sizes() ? 20 : 200);
        check_permutation(*state, random_between(&numbers, 0, small_sizes() ? 50 : 1000),
                          random_between(&numbers, 1, experts < 8 ? experts : 8), experts, seed);
    }
    check_permutation(*state, small_sizes() ? 6 : 500, 32, 1024, 1000);
    check_permutation(*state, 1, 1, 1, 1001);
    check_permutation(*state, small_sizes() ? 300 : 20000, 1, 3, 1002);
}

/* As a layer calls it: unused choices, zero experts, ids that are wrong, and room for fewer rows than there are ids. */
static void check_bounded_permutation(moecl_context *context, uint64_t number)
{
    uint64_t seed = number + 1;
    const size_t tokens = random_between(&seed, 1, 40), slots = random_between(&seed, 1, number % 5 ? 8 : 100);
    const size_t experts = random_between(&seed, 1, 20), outputs = experts + random_between(&seed, 0, 5);
    const size_t count = tokens * slots, capacity = random_between(&seed, 0, count);
    const bool wrong = number % 2 == 1;
    print_message("           case %llu: T %zu, slots %zu, E %zu, R %zu, %zu rows%s\n", (unsigned long long)number,
                  tokens, slots, experts, outputs, capacity, wrong ? ", a wrong id" : "");
    int32_t *ids = make(count, sizeof *ids);
    for (size_t a = 0; a < count; a++)
        ids[a] = (int32_t)random_between(&seed, 0, outputs) - 1;
    if (wrong)
        ids[random_between(&seed, 0, count - 1)] = number % 4 == 1 ? (int32_t)outputs : -2;
    const uint32_t zero = 0;
    struct array device_ids = array_make(context, count * sizeof *ids, ids);
    struct array offsets = array_make(context, (experts + 1) * sizeof(uint32_t), NULL);
    struct array assignments = array_make(context, capacity * sizeof(uint32_t), NULL);
    struct array rows = array_make(context, count * sizeof(int32_t), NULL);
    struct array workspace = array_make(context, moecl_permute_workspace_size(tokens, slots, experts), NULL);
    struct array flag = array_make(context, sizeof(zero), &zero);
    const struct moecl_permute_call call = {.tokens = tokens,
                                            .slots = slots,
                                            .experts = experts,
                                            .outputs = outputs,
                                            .row_capacity = capacity,
                                            .ids = device_ids.buffer,
                                            .permutation = {offsets.buffer, assignments.buffer, rows.buffer},
                                            .workspace = workspace.buffer,
                                            .flag = flag.buffer};
    struct moecl_permute_kernels kernels;
    struct moecl_chain chain;
    ASSERT_OK(context, moecl_permute_kernels_create(context, &kernels));
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_permute_enqueue(&kernels, &chain, &call), NULL));

    uint32_t *got_offsets = array_bytes(context, offsets), *got_assignments = array_bytes(context, assignments);
    uint32_t *raised = array_bytes(context, flag), row = 0;
    int32_t *got_rows = array_bytes(context, rows);
    free(array_bytes(context, workspace));
    assert_int_equal(*raised, wrong ? MOECL_FLAG_BAD_EXPERT : 0);
    for (size_t e = 0; e < experts; e++) {
        assert_int_equal(got_offsets[e], row < capacity ? row : capacity);
        for (size_t a = 0; a < count; a++) {
            if (ids[a] != (int32_t)e)
                continue;
            assert_int_equal(got_rows[a], row < capacity ? (int32_t)row : -1);
            if (row < capacity)
                assert_int_equal(got_assignments[row], a);
            row++;
        }
    }
    assert_int_equal(got_offsets[experts], row < capacity ? row : capacity);
    for (size_t a = 0; a < count; a++)
        if (ids[a] < 0 || (size_t)ids[a] >= experts)
            assert_int_equal(got_rows[a], -1);
    moecl_permute_kernels_release(&kernels);
    free(ids);
    free(got_offsets);
    free(got_assignments);
    free(raised);
    free(got_rows);
    struct array *arrays[] = {&device_ids, &offsets, &assignments, &rows, &workspace, &flag};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_release(arrays[i]);
}

static void permute_leaves_out_what_has_no_row(void **state)
{
    for (uint64_t number = 0; number < 2 * random_cases(); number++)
        check_bounded_permutation(*state, number);
}

/* A workspace made for many tokens serves fewer. */
static void permute_workspace_grows(void **state)
{
    (void)state;
    size_t before = 0;
    for (size_t tokens = 0; tokens < 300000; tokens++) {
        size_t bytes = moecl_permute_workspace_size(tokens, 1, 7);
        assert_true(bytes >= before);
        before = bytes;
    }
    assert_int_equal(moecl_permute_workspace_size(SIZE_MAX, 2, 7), 0);
    assert_int_equal(moecl_permute_workspace_size((size_t)1 << 31, 1, 7), 0);
}

/* ----------------------------------------------------------------------------------------------- grouped GEMM -- */

/* Random matrices of G groups on host and device. */
struct groups {
    moecl_matrices_options options;
    double **gates, **ups; /* [G] of [N,K], as stored; ups: where gated */
    moecl_matrices *packed;
};

/* Random values [N,K], rounded to the type; *matrix is them for the library. */
static double *random_matrix(uint64_t *seed, moecl_type type, size_t rows, size_t columns, moecl_matrix *matrix)
{
    float *values = make(rows * columns, sizeof *values);
    void *stored = make(rows * columns, moecl_type_size(type));
    random_fill(seed, 1 / sqrt((double)columns), values, rows * columns);
    moecl_convert(values, MOECL_F32, stored, type, rows * columns);
    free(values);
    *matrix = (moecl_matrix){stored, type, rows, columns, 0, 0};
    return to_doubles(stored, type, rows * columns);
}

static struct groups groups_make(moecl_context *context, const moecl_matrices_options *options, uint64_t *seed)
{
    struct groups groups = {.options = *options};
    groups.gates = make(options->groups, sizeof *groups.gates);
    groups.ups = make(options->groups, sizeof *groups.ups);
    ASSERT_OK(context, moecl_matrices_create(context, options, &groups.packed));
    for (size_t g = 0; g < options->groups; g++) {
        moecl_group_weights weights = {0};
        groups.gates[g] = random_matrix(seed, options->weights, options->out, options->in, &weights.matrix);
        if (options->activated)
            groups.ups[g] = random_matrix(seed, options->weights, options->out, options->in, &weights.up);
        ASSERT_OK(context, moecl_matrices_set(groups.packed, g, &weights));
        free((void *)weights.matrix.data);
        free((void *)weights.up.data);
    }
    return groups;
}

static void groups_free(struct groups *groups)
{
    for (size_t g = 0; g < groups->options.groups; g++) {
        free(groups->gates[g]);
        free(groups->ups[g]);
    }
    free(groups->gates);
    free(groups->ups);
    moecl_matrices_destroy(groups->packed);
}

static double inner_product(const double *a, const double *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Column `column` of the product of group g with x. */
static double expected_value(const struct groups *groups, moecl_product product, size_t g, size_t column,
                             const double *x)
{
    const size_t out = groups->options.out, in = groups->options.in, row = column % out;
    const double gate = inner_product(&groups->gates[g][row * in], x, in);
    if (!groups->options.activated)
        return gate;
    const double up = inner_product(&groups->ups[g][row * in], x, in);
    if (product == MOECL_PRODUCT_LINEAR)
        return column < out ? gate : up;
    return silu(gate) * up;
}

/* How the rows are spread over the groups. */
enum spread { RANDOM, FIRST_GROUP, LAST_GROUP, NO_ROWS };

static void fill_offsets(uint64_t *seed, enum spread spread, size_t groups, size_t rows, uint32_t *offsets)
{
    uint32_t *counts = make(groups, sizeof *counts);
    for (size_t r = 0; r < rows && spread != NO_ROWS; r++) {
        size_t group = spread == FIRST_GROUP  ? 0
                       : spread == LAST_GROUP ? groups - 1
                                              : random_between(seed, 0, groups - 1);
        counts[group - (spread == RANDOM && group % 3 == 1)]++; /* some groups stay empty */
    }
    offsets[0] = 0;
    for (size_t g = 0; g < groups; g++)
        offsets[g + 1] = offsets[g] + counts[g];
    free(counts);
}

/* A product of `rows` rows at most, some of them unused, read directly or through assignments. */
static void check_product(moecl_context *context, const struct groups *groups, enum spread spread,
                          moecl_product product, size_t rows, size_t divisor, uint64_t *seed)
{
    const moecl_matrices_options *options = &groups->options;
    size_t depth = options->in, bound = rows + random_between(seed, 0, 20);
    size_t columns = options->activated && product == MOECL_PRODUCT_LINEAR ? 2 * options->out : options->out;
    size_t inputs = divisor > 0 ? bound / divisor + 1 : bound;
    uint32_t *offsets = make(options->groups + 1, sizeof *offsets), *assignments = make(bound, sizeof *assignments);
    float *values = make(inputs * depth, sizeof *values);
    fill_offsets(seed, spread, options->groups, rows, offsets);
    for (size_t r = 0; r < bound; r++)
        assignments[r] = (uint32_t)random_between(seed, 0, bound - 1);
    random_fill(seed, 1, values, inputs * depth);

    struct array input = array_of(context, options->activations, values, inputs * depth);
    struct array device_offsets = array_make(context, (options->groups + 1) * sizeof *offsets, offsets);
    struct array device_assignments = array_make(context, bound * sizeof *assignments, assignments);
    struct array output = array_make(context, bound * columns * sizeof(float), NULL);
    struct array workspace = array_make(context, moecl_grouped_gemm_workspace_size(groups->packed, bound), NULL);
    moecl_grouped_gemm_call call = {.rows = bound,
                                    .input = input.buffer,
                                    .input_type = options->activations,
                                    .divisor = divisor,
                                    .offsets = device_offsets.buffer,
                                    .product = product,
                                    .output = output.buffer,
                                    .workspace = workspace.buffer};
    if (divisor > 0)
        call.assignments = device_assignments.buffer;
    ASSERT_OK(context, moecl_grouped_gemm(groups->packed, &call, 0, NULL, NULL));

    double *x = array_doubles(context, input, options->activations), *got = array_doubles(context, output, MOECL_F32);
    double *expected = make(bound * columns, sizeof *expected);
    unsigned char *bytes = array_bytes(context, output);
    free(array_bytes(context, workspace));
    for (size_t g = 0; g < options->groups; g++)
        for (size_t r = offsets[g]; r < offsets[g + 1]; r++)
            for (size_t c = 0; c < columns; c++)
                expected[r * columns + c] =
                    expected_value(groups, product, g, c, &x[(divisor > 0 ? assignments[r] / divisor : r) * depth]);
    size_t used = offsets[options->groups];
    ASSERT_CLOSE(got, expected, used * columns, 1e-5);
    for (size_t i = used * columns * sizeof(float); i < bound * columns * sizeof(float); i++)
        assert_int_equal(bytes[i], UNSET_BYTE);
    free(x);
    free(got);
    free(bytes);
    free(expected);
    free(offsets);
    free(assignments);
    free(values);
    array_release(&input);
    array_release(&device_offsets);
    array_release(&device_assignments);
    array_release(&output);
    array_release(&workspace);
}

static void grouped_gemm_multiplies_each_group(void **state)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    size_t variants = 0, most = small_sizes() ? 20 : 90;
    while (moecl_variant_name(variants) != NULL)
        variants++;
    for (uint64_t number = 0; number < random_cases(); number++) {
        uint64_t seed = number + 1;
        moecl_matrices_options options = {.groups = random_between(&seed, 1, 12),
                                          .out = random_between(&seed, 1, most),
                                          .in = random_between(&seed, 1, most),
                                          .activated = random_between(&seed, 0, 1) == 1,
                                          .weights = types[number / variants % 3],
                                          .activations = types[(number / variants + number / variants / 3) % 3],
                                          .variant = moecl_variant_name(number % variants)};
        print_message("           case %llu: G %zu, N %zu, K %zu%s, %s, activations %s, %s\n",
                      (unsigned long long)number, options.groups, options.out, options.in,
                      options.activated ? " gated" : "", moecl_type_name(options.weights),
                      moecl_type_name(options.activations), options.variant);
        struct groups groups = groups_make(*state, &options, &seed);
        for (enum spread spread = RANDOM; spread <= NO_ROWS; spread++) {
            size_t rows = random_between(&seed, 1, most), divisor = random_between(&seed, 0, 4);
            check_product(*state, &groups, spread, MOECL_PRODUCT_ACTIVATED, rows, divisor, &seed);
            check_product(*state, &groups, spread, MOECL_PRODUCT_LINEAR, rows, divisor, &seed);
        }
        groups_free(&groups);
    }
}

/* ---------------------------------------------------------------------------------------------------- combine -- */

/* What a combine call has, and its data on the host. */
struct combination {
    size_t tokens, top_k, hidden, rows, experts, outputs, stride;
    bool has_rows, has_weights, has_ids, has_bias, has_shared;
    moecl_shared_gate gate;
    moecl_type x_type, type;
    float scale;
    float *z, *weights, *x, *bias, *shared, *logits;
    int32_t *row, *ids;
};

static float *random_floats(uint64_t *seed, size_t count)
{
    float *values = make(count, sizeof *values);
    random_fill(seed, 1, values, count);
    return values;
}

static bool coin(uint64_t *seed)
{
    return random_between(seed, 0, 1) == 1;
}

static struct combination random_combination(uint64_t seed)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    const float scales[] = {0, 1, -2.5f};
    struct combination c = {.tokens = random_between(&seed, 0, 30), .hidden = random_between(&seed, 1, 150)};
    c.top_k = seed % 7 == 0 ? random_between(&seed, 100, small_sizes() ? 200 : 1024) : random_between(&seed, 1, 32);
    if (c.top_k > 32 || small_sizes())
        c.hidden = random_between(&seed, 1, 40);
    c.has_rows = coin(&seed);
    c.has_weights = coin(&seed);
    c.has_ids = coin(&seed);
    c.has_bias = coin(&seed);
    c.has_shared = coin(&seed);
    c.gate = (moecl_shared_gate)random_between(&seed, 0, 2);
    c.x_type = types[random_between(&seed, 0, 2)];
    c.type = types[random_between(&seed, 0, 2)];
    c.scale = scales[random_between(&seed, 0, 2)];
    c.stride = random_between(&seed, 2, 6);
    c.experts = random_between(&seed, 1, 9);
    c.outputs = c.experts + random_between(&seed, 0, 9);
    const size_t count = c.tokens * c.top_k;
    c.rows = c.has_rows ? random_between(&seed, 1, count + 1) : count;
    c.z = random_floats(&seed, c.rows * c.hidden);
    c.weights = random_floats(&seed, count);
    c.x = random_floats(&seed, c.tokens * c.hidden);
    c.bias = random_floats(&seed, c.hidden);
    c.shared = random_floats(&seed, c.tokens * c.hidden);
    c.logits = random_floats(&seed, c.tokens * c.stride);
    c.row = make(count, sizeof *c.row);
    c.ids = make(count, sizeof *c.ids);
    for (size_t a = 0; a < count; a++) {
        c.ids[a] = (int32_t)random_between(&seed, 0, c.outputs + 2) - 2;
        c.row[a] = random_between(&seed, 0, 4) == 0 ? -1 : (int32_t)random_between(&seed, 0, c.rows - 1);
    }
    return c;
}

static void combination_free(struct combination *c)
{
    void *const all[] = {c->z, c->weights, c->x, c->bias, c->shared, c->logits, c->row, c->ids};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        free(all[i]);
}

/* x is [T,H] as the device has it; ids from `outputs` on give nothing. */
static double combined(const struct combination *c, const double *x, size_t outputs, size_t t, size_t h)
{
    const float *logits = &c->logits[t * c->stride];
    double sum = 0, routed = 1, shared = c->scale == 0 ? 1 : (double)c->scale;
    for (size_t a = t * c->top_k; a < (t + 1) * c->top_k; a++) {
        const double weight = c->has_weights ? (double)c->weights[a] : 1;
        const int64_t row = c->has_rows ? c->row[a] : c->has_ids && c->ids[a] < 0 ? -1 : (int64_t)a;
        if (c->has_ids && c->ids[a] >= (int64_t)c->experts)
            sum += (size_t)c->ids[a] < outputs ? weight * x[t * c->hidden + h] : 0;
        else if (row >= 0)
            sum += weight * (double)c->z[(size_t)row * c->hidden + h];
    }
    if (c->gate == MOECL_SHARED_GATE_SIGMOID)
        shared *= 1 / (1 + exp(-(double)logits[0]));
    if (c->gate == MOECL_SHARED_GATE_SOFTMAX) {
        const double first = exp((double)logits[0]), second = exp((double)logits[1]);
        routed = first / (first + second);
        shared *= second / (first + second);
    }
    sum *= routed;
    if (c->has_bias)
        sum += (double)c->bias[h];
    return c->has_shared ? sum + shared * (double)c->shared[t * c->hidden + h] : sum;
}

/* By the public call, where every id from E on is a zero expert; or by the layer's, where there are `outputs`. */
static void enqueue_combine(moecl_context *context, const moecl_combine_call *call, size_t outputs, moecl_buffer flag)
{
    cl_kernel kernel;
    struct moecl_chain chain;
    if (outputs == SIZE_MAX) {
        ASSERT_OK(context, moecl_combine(context, call, 0, NULL, NULL));
        return;
    }
    ASSERT_OK(context, moecl_combine_kernel_create(context, call->output_type, call->x_type, &kernel));
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_combine_enqueue(kernel, &chain, call, outputs, flag), NULL));
    clReleaseKernel(kernel);
}

/* Ids that are no expert's: who has no rows of a permutation is told of them. */
static uint32_t flag_expected(const struct combination *c, size_t outputs)
{
    const bool by_choice = c->has_ids && !c->has_rows && outputs != SIZE_MAX;
    for (size_t a = 0; by_choice && a < c->tokens * c->top_k; a++)
        if (c->ids[a] < -1 || c->ids[a] >= (int64_t)outputs)
            return MOECL_FLAG_BAD_EXPERT;
    return 0;
}

static void check_combine(moecl_context *context, const struct combination *c, size_t outputs)
{
    const uint32_t zero = 0;
    struct array flag = array_make(context, sizeof(zero), &zero);
    const size_t count = c->tokens * c->top_k, values = c->tokens * c->hidden;
    struct array z = array_of(context, MOECL_F32, c->z, c->rows * c->hidden);
    struct array weights = array_of(context, MOECL_F32, c->weights, count);
    struct array x = array_of(context, c->x_type, c->x, values);
    struct array bias = array_of(context, MOECL_F32, c->bias, c->hidden);
    struct array shared = array_of(context, MOECL_F32, c->shared, values);
    struct array logits = array_of(context, MOECL_F32, c->logits, c->tokens * c->stride);
    struct array rows = array_make(context, count * sizeof(int32_t), c->row);
    struct array ids = array_make(context, count * sizeof(int32_t), c->ids);
    struct array y = array_make(context, values * moecl_type_size(c->type), NULL);
    const moecl_buffer none = {0};
    const moecl_combine_call call = {.tokens = c->tokens,
                                     .top_k = c->top_k,
                                     .hidden = c->hidden,
                                     .z = z.buffer,
                                     .rows = c->has_rows ? rows.buffer : none,
                                     .weights = c->has_weights ? weights.buffer : none,
                                     .experts = c->experts,
                                     .ids = c->has_ids ? ids.buffer : none,
                                     .x = c->has_ids ? x.buffer : none,
                                     .x_type = c->x_type,
                                     .bias = c->has_bias ? bias.buffer : none,
                                     .shared = c->has_shared ? shared.buffer : none,
                                     .shared_scale = c->scale,
                                     .shared_gate = c->gate,
                                     .shared_logits = c->gate ? logits.buffer : none,
                                     .shared_stride = c->gate ? c->stride : 0,
                                     .y = y.buffer,
                                     .output_type = c->type};
    if (c->tokens > 0 || outputs == SIZE_MAX)
        enqueue_combine(context, &call, outputs, flag.buffer);
    double *stored = array_doubles(context, x, c->x_type), *got = array_doubles(context, y, c->type);
    double *expected = make(values, sizeof *expected);
    for (size_t i = 0; i < values; i++)
        expected[i] = combined(c, stored, outputs, i / c->hidden, i % c->hidden);
    const double rounding[] = {[MOECL_F32] = 0, [MOECL_F16] = 0x1p-11, [MOECL_BF16] = 0x1p-8};
    ASSERT_CLOSE(got, expected, values, 1e-5 + rounding[c->type]);
    uint32_t *raised = array_bytes(context, flag);
    assert_int_equal(*raised, flag_expected(c, outputs));
    free(raised);
    free(stored);
    free(got);
    free(expected);
    struct array *arrays[] = {&z, &weights, &x, &bias, &shared, &logits, &rows, &ids, &y, &flag};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_release(arrays[i]);
}

static void combine_sums_in_weights(void **state)
{
    for (uint64_t seed = 1; seed <= 4 * random_cases(); seed++) {
        struct combination c = random_combination(seed);
        print_message("           seed %llu: T %zu, k %zu, H %zu, %s%s%s%s%s%s, gate %s\n", (unsigned long long)seed,
                      c.tokens, c.top_k, c.hidden, moecl_type_name(c.type), c.has_rows ? ", rows" : "",
                      c.has_weights ? ", weights" : "", c.has_ids ? ", zero experts" : "", c.has_bias ? ", bias" : "",
                      c.has_shared ? ", shared" : "", moecl_choice_name(MOECL_CHOICE_SHARED_GATE, (int)c.gate));
        check_combine(*state, &c, SIZE_MAX);
        check_combine(*state, &c, c.outputs);
        combination_free(&c);
    }
}

static void combine_refuses_what_does_not_fit(void **state)
{
    moecl_context *context = *state;
    enum { TOKENS = 3, TOP_K = 2, HIDDEN = 5 };
    struct array whole = array_make(context, TOKENS * HIDDEN * sizeof(float) * TOP_K, NULL);
    cl_int code;
    const moecl_buffer small = {clCreateBuffer(moecl_context_cl(context), CL_MEM_READ_WRITE, 4, NULL, &code), 0};
    assert_int_equal(code, CL_SUCCESS);
    const moecl_combine_call good = {.tokens = TOKENS,
                                     .top_k = TOP_K,
                                     .hidden = HIDDEN,
                                     .z = whole.buffer,
                                     .rows = whole.buffer,
                                     .weights = whole.buffer,
                                     .experts = 4,
                                     .ids = whole.buffer,
                                     .x = whole.buffer,
                                     .bias = whole.buffer,
                                     .shared = whole.buffer,
                                     .shared_gate = MOECL_SHARED_GATE_SOFTMAX,
                                     .shared_logits = whole.buffer,
                                     .shared_stride = 2,
                                     .y = whole.buffer};
    moecl_combine_call bad[16];
    size_t count = 0;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        bad[i] = good;
    bad[count++].z = small;
    bad[count++].rows = small;
    bad[count++].weights = small;
    bad[count++].ids = small;
    bad[count++].x = small;
    bad[count++].bias = small;
    bad[count++].shared = small;
    bad[count++].shared_logits = small;
    bad[count++].y = small;
    bad[count++].x = (moecl_buffer){0};
    bad[count++].shared_logits = (moecl_buffer){0};
    bad[count++].shared_stride = 1;
    bad[count++].shared_gate = (moecl_shared_gate)3;
    bad[count++].top_k = MOECL_MAX_EXPERTS + 1;
    bad[count++].x_type = (moecl_type)9;
    bad[count++].hidden = 0;
    assert_int_equal(count, sizeof(bad) / sizeof(bad[0]));
    for (size_t i = 0; i < count; i++)
        if (moecl_combine(context, &bad[i], 0, NULL, NULL) != MOECL_INVALID_ARGUMENT)
            fail_msg("the call number %zu is not refused", i);
    array_release(&whole);
    clReleaseMemObject(small.memory);
}

/* ------------------------------------------------------------------------------------------------------ route -- */

static void route_gives_logits_ids_and_weights(void **state)
{
    moecl_context *context = *state;
    for (uint64_t number = 0; number < random_cases(); number++) {
        uint64_t seed = number + 1;
        moecl_layer_options options = random_options(&seed, number);
        size_t tokens = random_between(&seed, 0, small_sizes() ? 9 : 60), outputs = tokens * options.hidden;
        size_t routings = tokens * options.top_k, scores = tokens * options.experts;
        print_case(&options, tokens, number);
        struct host_layer host = host_layer_make(&options, MOECL_F32, seed);
        moecl_layer *layer = host_layer_upload(context, &host);
        float *values = make(outputs, sizeof *values);
        random_fill(&seed, 1, values, outputs);
        struct array x = array_of(context, options.activations, values, outputs);
        struct array ids = array_make(context, routings * sizeof(int32_t), NULL);
        struct array weights = array_make(context, routings * sizeof(float), NULL);
        struct array logits = array_make(context, scores * sizeof(float), NULL);
        moecl_routing routing = {ids.buffer, weights.buffer};
        ASSERT_OK(context, moecl_route(layer, &(moecl_forward){.tokens = tokens, .x = x.buffer, .routing = routing},
                                       logits.buffer, 0, NULL, NULL));

        int32_t *got_ids = array_bytes(context, ids), *expected_ids = make(routings, sizeof(int32_t));
        double *got_weights = array_doubles(context, weights, MOECL_F32);
        double *got_logits = array_doubles(context, logits, MOECL_F32);
        double *expected_weights = make(routings, sizeof(double)), *expected_logits = make(scores, sizeof(double));
        moecl_reference_call call = {.options = &options,
                                     .weights = &host.weights,
                                     .tokens = tokens,
                                     .x = values,
                                     .ids = expected_ids,
                                     .routing_weights = expected_weights,
                                     .logits = expected_logits};
        assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
        ASSERT_CLOSE(got_logits, expected_logits, scores, 1e-5);
        ASSERT_CLOSE(got_weights, expected_weights, routings, 1e-5);
        assert_memory_equal(got_ids, expected_ids, routings * sizeof(int32_t));

        /* without logits: the same */
        ASSERT_OK(context, moecl_route(layer, &(moecl_forward){.tokens = tokens, .x = x.buffer, .routing = routing},
                                       (moecl_buffer){0}, 0, NULL, NULL));
        int32_t *again = array_bytes(context, ids);
        assert_memory_equal(again, got_ids, routings * sizeof(int32_t));
        free(again);
        free(values);
        free(got_ids);
        free(expected_ids);
        free(got_weights);
        free(got_logits);
        free(expected_weights);
        free(expected_logits);
        array_release(&x);
        array_release(&ids);
        array_release(&weights);
        array_release(&logits);
        moecl_layer_destroy(layer);
        host_layer_free(&host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permute_is_a_stable_sort),
        cmocka_unit_test(permute_leaves_out_what_has_no_row),
        cmocka_unit_test(permute_workspace_grows),
        cmocka_unit_test(grouped_gemm_multiplies_each_group),
        cmocka_unit_test(combine_sums_in_weights),
        cmocka_unit_test(combine_refuses_what_does_not_fit),
        cmocka_unit_test(route_gives_logits_ids_and_weights),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
