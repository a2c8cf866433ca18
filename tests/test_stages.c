/* SPDX-License-Identifier: Apache-2.0 */
/* test_stages.c - every stage by itself, on random input, against plain host code. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "device.h"
#include "layers.h"
#include "random.h"

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

static void check_combine(moecl_context *context, size_t tokens, size_t top_k, size_t hidden, moecl_type type,
                          bool shared, size_t stride, uint64_t seed)
{
    size_t count = tokens * top_k;
    print_message("           seed %llu: T %zu, k %zu, H %zu, %s%s, stride %zu\n", (unsigned long long)seed, tokens,
                  top_k, hidden, moecl_type_name(type), shared ? ", shared" : "", stride);
    float *z = make(count * hidden, sizeof(float)), *weights = make(count, sizeof(float));
    float *extra = make(tokens * hidden, sizeof(float)), *logits = make(tokens * stride, sizeof(float));
    int32_t *rows = make(count, sizeof *rows);
    random_fill(&seed, 1, z, count * hidden);
    random_fill(&seed, 1, weights, count);
    random_fill(&seed, 1, extra, tokens * hidden);
    random_fill(&seed, 2, logits, tokens * stride);
    for (size_t a = 0; a < count; a++)
        rows[a] = random_between(&seed, 0, 9) == 0 ? -1 : (int32_t)random_between(&seed, 0, count - 1);
    double *expected = make(tokens * hidden, sizeof *expected);
    for (size_t i = 0; i < tokens * hidden; i++) {
        size_t t = i / hidden;
        for (size_t a = t * top_k; a < (t + 1) * top_k; a++)
            if (rows[a] >= 0)
                expected[i] += (double)weights[a] * (double)z[(size_t)rows[a] * hidden + i % hidden];
        if (shared)
            expected[i] += (double)extra[i] / (stride > 0 ? 1 + exp(-(double)logits[t * stride]) : 1);
    }

    struct array device_z = array_of(context, MOECL_F32, z, count * hidden);
    struct array device_weights = array_of(context, MOECL_F32, weights, count);
    struct array device_extra = array_of(context, MOECL_F32, extra, tokens * hidden);
    struct array device_logits = array_of(context, MOECL_F32, logits, tokens * stride);
    struct array device_rows = array_make(context, count * sizeof *rows, rows);
    struct array y = array_make(context, tokens * hidden * moecl_type_size(type), NULL);
    moecl_combine_call call = {.tokens = tokens,
                               .top_k = top_k,
                               .hidden = hidden,
                               .z = device_z.buffer,
                               .rows = device_rows.buffer,
                               .weights = device_weights.buffer,
                               .y = y.buffer,
                               .output_type = type,
                               .shared_stride = stride};
    if (shared)
        call.shared = device_extra.buffer;
    if (shared && stride > 0) {
        call.shared_gate = MOECL_SHARED_GATE_SIGMOID;
        call.shared_logits = device_logits.buffer;
    }
    ASSERT_OK(context, moecl_combine(context, &call, 0, NULL, NULL));
    double *got = array_doubles(context, y, type);
    const double rounding[] = {[MOECL_F32] = 0, [MOECL_F16] = 0x1p-11, [MOECL_BF16] = 0x1p-8};
    ASSERT_CLOSE(got, expected, tokens * hidden, 1e-5 + rounding[type]);
    free(got);
    free(z);
    free(weights);
    free(extra);
    free(logits);
    free(rows);
    free(expected);
    struct array *arrays[] = {&device_z, &device_weights, &device_extra, &device_logits, &device_rows, &y};
    for (size_t i = 0; i < sizeof(arrays) / sizeof(arrays[0]); i++)
        array_release(arrays[i]);
}

static void combine_sums_in_weights(void **state)
{
    const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};
    for (uint64_t seed = 1; seed <= random_cases(); seed++) {
        uint64_t numbers = seed;
        bool shared = random_between(&numbers, 0, 1) == 1;
        check_combine(*state, random_between(&numbers, 0, 30), random_between(&numbers, 1, 32),
                      random_between(&numbers, 1, small_sizes() ? 40 : 150), types[seed % 3], shared,
                      shared ? random_between(&numbers, 0, 5) : 0, seed);
    }
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
        cmocka_unit_test(permute_is_a_stable_sort),           cmocka_unit_test(permute_workspace_grows),
        cmocka_unit_test(grouped_gemm_multiplies_each_group), cmocka_unit_test(combine_sums_in_weights),
        cmocka_unit_test(route_gives_logits_ids_and_weights),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
