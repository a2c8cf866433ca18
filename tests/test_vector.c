/* SPDX-License-Identifier: Apache-2.0 */
/* test_vector.c - the variant `vector`: every height of a tile, with each parameter, as floats and in pairs; a row's
 * bits do not depend on how many rows its expert has, so not on the body that makes them; the variant is first on CPUs
 * only. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <moecl/stages.h>

#include "amx.h"
#include "device.h"
#include "experts/matrices.h"
#include "experts/variant.h"
#include "layers.h"
#include "random.h"

/* Group g has g rows, and its row r is input row r; all groups have the same weights. The panels are odd in number. */
enum { GROUPS = 36, ROWS = GROUPS * (GROUPS - 1) / 2, OUT = 72, IN = 83 };

struct fixture {
    moecl_context *context;
    float matrix[OUT * IN], up[OUT * IN], x[GROUPS * IN]; /* numbers of the 16-bit type too */
    moecl_type type;
    struct array input, input_16bit, assignments, offsets;
};

static void fill(uint64_t *seed, double scale, moecl_type type, float *values, size_t count)
{
    uint16_t *rounded = make(count, sizeof *rounded);
    random_fill(seed, scale, values, count);
    moecl_convert(values, MOECL_F32, rounded, type, count);
    moecl_convert(rounded, type, values, MOECL_F32, count);
    free(rounded);
}

static void fixture_upload_x(struct fixture *fixture)
{
    fixture->input = array_make(fixture->context, sizeof(fixture->x), fixture->x);
    fixture->input_16bit = array_of(fixture->context, fixture->type, fixture->x, sizeof(fixture->x) / sizeof(float));
}

/* Of numbers that `type`, of 16 bits, has too. */
static void fixture_make(moecl_context *context, double scale, moecl_type type, struct fixture *fixture)
{
    uint64_t seed = number_from_environment("MOECL_SEED", 1);
    cl_uint assignments[ROWS], offsets[GROUPS + 1] = {0};
    for (cl_uint g = 0, row = 0; g < GROUPS; g++) {
        for (cl_uint r = 0; r < g; r++)
            assignments[row++] = r;
        offsets[g + 1] = row;
    }
    printf("           seed %llu\n", (unsigned long long)seed);
    fixture->context = context;
    fixture->type = type;
    fill(&seed, scale, type, fixture->matrix, sizeof(fixture->matrix) / sizeof(float));
    fill(&seed, scale, type, fixture->up, sizeof(fixture->up) / sizeof(float));
    fill(&seed, scale, type, fixture->x, sizeof(fixture->x) / sizeof(float));
    fixture_upload_x(fixture);
    fixture->assignments = array_make(context, sizeof(assignments), assignments);
    fixture->offsets = array_make(context, sizeof(offsets), offsets);
}

static void fixture_release(struct fixture *fixture)
{
    array_release(&fixture->input);
    array_release(&fixture->input_16bit);
    array_release(&fixture->assignments);
    array_release(&fixture->offsets);
}

static double product_of(const float *matrix, const float *x, size_t column)
{
    double sum = 0;
    for (size_t k = 0; k < IN; k++)
        sum += (double)matrix[column * IN + k] * x[k];
    return sum;
}

static double expected_of(const struct fixture *fixture, bool activated, size_t row, size_t column)
{
    const float *x = &fixture->x[row * IN];
    const double gate = product_of(fixture->matrix, x, column);
    return activated ? gate / (1 + exp(-gate)) * product_of(fixture->up, x, column) : gate;
}

/* The product of all groups, of weights and input of this type. */
static float *multiply(struct fixture *fixture, const char *parameters, bool activated, moecl_type type)
{
    const moecl_matrices_options options = {
        .groups = GROUPS, .out = OUT, .in = IN, .activated = activated, .weights = type, .activations = type};
    struct moecl_gemm *gemm;
    moecl_group_weights weights = {.matrix = {fixture->matrix, MOECL_F32, OUT, IN, 0, 0}};
    if (activated)
        weights.up = (moecl_matrix){fixture->up, MOECL_F32, OUT, IN, 0, 0};
    moecl_matrices *matrices;
    ASSERT_OK(fixture->context, moecl_gemm_create(fixture->context, "vector", parameters, &gemm));
    const size_t pair_rows = moecl_gemm_pair_rows(gemm, type, type, 1000); /* as if there were so many */
    ASSERT_OK(fixture->context, moecl_matrices_create_for(gemm, &options, pair_rows, &matrices));
    for (size_t g = 0; g < GROUPS; g++)
        ASSERT_OK(fixture->context, moecl_matrices_set(matrices, g, &weights));
    struct array output = array_make(fixture->context, sizeof(float) * ROWS * OUT, NULL);
    struct array workspace = array_make(fixture->context, moecl_grouped_gemm_workspace_size(matrices, ROWS), NULL);
    const moecl_grouped_gemm_call call = {.rows = ROWS,
                                          .input =
                                              type == MOECL_F32 ? fixture->input.buffer : fixture->input_16bit.buffer,
                                          .input_type = type,
                                          .assignments = fixture->assignments.buffer,
                                          .offsets = fixture->offsets.buffer,
                                          .output = output.buffer,
                                          .workspace = workspace.buffer};
    ASSERT_OK(fixture->context, moecl_grouped_gemm(matrices, &call, 0, NULL, NULL));
    float *got = array_bytes(fixture->context, output);
    free(array_bytes(fixture->context, workspace));
    array_release(&output);
    array_release(&workspace);
    moecl_matrices_destroy(matrices);
    moecl_gemm_destroy(gemm);
    return got;
}

/* A row has the same bits in every group. */
static void check_bits(const float *got, const char *parameters)
{
    const float *last = &got[(ROWS - GROUPS + 1) * OUT]; /* the rows of the last group: all there are */
    for (size_t g = 0, row = 0; g < GROUPS; g++)
        for (size_t r = 0; r < g; r++, row++) {
            const void *bits = &got[row * OUT], *others = &last[r * OUT];
            if (memcmp(bits, others, OUT * sizeof(float)) != 0)
                fail_msg("%s: row %zu of %zu has other bits than among %d", parameters, r, g, GROUPS - 1);
        }
}

static void check(struct fixture *fixture, const char *parameters, bool activated, moecl_type type)
{
    printf("           %s, %s\n", parameters, activated ? "activated" : "plain");
    float *got = multiply(fixture, parameters, activated, type);
    double *expected = make(ROWS * OUT, sizeof *expected), *values = to_doubles(got, MOECL_F32, ROWS * OUT);
    check_bits(got, parameters);
    for (size_t g = 0, row = 0; g < GROUPS; g++)
        for (size_t r = 0; r < g; r++, row++)
            for (size_t c = 0; c < OUT; c++)
                expected[row * OUT + c] = expected_of(fixture, activated, r, c);
    ASSERT_CLOSE(values, expected, ROWS * OUT, 1e-5);
    free(values);
    free(expected);
    free(got);
}

static void check_all(moecl_context *context, const char *const *parameters, size_t count, moecl_type type)
{
    struct fixture fixture;
    fixture_make(context, 1, type == MOECL_F32 ? MOECL_BF16 : type, &fixture);
    for (size_t i = 0; i < count; i++)
        for (int activated = 0; activated < 2; activated++)
            check(&fixture, parameters[i], activated, type);
    fixture_release(&fixture);
}

static void every_height_gives_the_same_bits(void **state)
{
    static const char *const parameters[] = {
        /* where building is slow, these alone */
        "item_rows=6,item_vectors=1,block_tiles=1,depth_steps=32",
        "item_rows=6,item_vectors=1,block_tiles=16,depth_steps=512",
        "item_rows=12,item_vectors=2,block_tiles=2,depth_steps=64",
        "item_rows=8,item_vectors=2,block_tiles=4,depth_steps=32",
        "item_rows=10,item_vectors=1,block_tiles=1,depth_steps=128",
        "item_rows=12,item_vectors=1,block_tiles=16,depth_steps=32",
        "item_rows=6,item_vectors=2,block_tiles=32,depth_steps=1024",
    };
    check_all(*state, parameters, small_sizes() ? 2 : sizeof(parameters) / sizeof(parameters[0]), MOECL_F32);
}

/* bf16 weights lie in pairs; multiplied as floats, they give what the same numbers in f32 give. */
static void bf16_as_floats_gives_the_bits_of_f32(void **state)
{
    static const char *const parameters[] = {
        "item_rows=6,item_vectors=1,block_tiles=1,depth_steps=32,products=1",
        "item_rows=12,item_vectors=2,block_tiles=2,depth_steps=64,products=1",
    };
    struct fixture fixture;
    fixture_make(*state, 1, MOECL_BF16, &fixture);
    for (size_t i = 0; i < (small_sizes() ? 1 : 2); i++) {
        float *got = multiply(&fixture, parameters[i], true, MOECL_BF16);
        float *expected = multiply(&fixture, parameters[i], true, MOECL_F32);
        assert_memory_equal(got, expected, ROWS * OUT * sizeof(float));
        free(got);
        free(expected);
    }
    fixture_release(&fixture);
}

/* In plain code everywhere, and by the instruction where there is one. */
static void pairs_give_the_same_bits(void **state)
{
    static const char *const parameters[] = {
        "item_rows=6,item_vectors=1,block_tiles=1,depth_steps=32,products=2",
        "item_rows=12,item_vectors=2,block_tiles=2,depth_steps=64,products=2",
        "item_rows=8,item_vectors=2,block_tiles=4,depth_steps=512,products=2",
        "item_rows=6,item_vectors=1,block_tiles=1,depth_steps=32,products=3",
        "item_rows=12,item_vectors=2,block_tiles=2,depth_steps=64,products=3",
        "item_rows=8,item_vectors=2,block_tiles=4,depth_steps=512,products=3",
    };
    moecl_context *context = *state;
    struct moecl_gemm *gemm;
    moecl_device_info info;
    ASSERT_OK(context, moecl_device_describe(context, true, &info));
    check_all(context, parameters, small_sizes() ? 1 : 3, MOECL_BF16);
    if (info.avx512_bf16)
        check_all(context, &parameters[3], 3, MOECL_BF16);
    else
        assert_int_equal(moecl_gemm_create(context, "vector", parameters[3], &gemm), MOECL_UNSUPPORTED);
}

/* Products too small to be normal numbers, which tiles take for zero: so must what multiplies a row by itself. */
static void check_subnormal(moecl_context *context, const char *parameters)
{
    struct fixture fixture;
    fixture_make(context, 0x1p-63, MOECL_BF16, &fixture);
    float *got = multiply(&fixture, parameters, false, MOECL_BF16);
    check_bits(got, parameters);
    free(got);
    fixture_release(&fixture);
}

/* f16 is multiplied in pieces where an expert has many rows, as floats where it has few. */
static void check_piece_rows(moecl_context *context)
{
    struct fixture fixture;
    fixture_make(context, 1, MOECL_F16, &fixture);
    float *floats = multiply(&fixture, "products=1", true, MOECL_F16);
    float *few = multiply(&fixture, "products=4,piece_rows=64", true, MOECL_F16);
    float *many = multiply(&fixture, "products=4,piece_rows=16", true, MOECL_F16);
    assert_memory_equal(few, floats, ROWS * OUT * sizeof(float));
    assert_memory_not_equal(many, floats, ROWS * OUT * sizeof(float));
    free(floats);
    free(few);
    free(many);
    fixture_release(&fixture);
}

/* A layer whose experts, and shared expert, have rows enough for pieces. */
static void check_layer(moecl_context *context)
{
    enum { TOKENS = 33 };
    const moecl_layer_options options = {.experts = 3,
                                         .hidden = 259,
                                         .intermediate = 257,
                                         .top_k = 2,
                                         .shared_intermediate = 300,
                                         .weights = MOECL_F16,
                                         .activations = MOECL_F16,
                                         .variant = "vector"};
    uint64_t seed = number_from_environment("MOECL_SEED", 1);
    struct host_layer host = host_layer_make(&options, MOECL_F32, seed);
    moecl_layer *layer = host_layer_upload(context, &host);
    float *x = make(TOKENS * options.hidden, sizeof *x);
    random_fill(&seed, 1, x, TOKENS * options.hidden);
    for (int method = MOECL_VERIFY_FULL; method <= MOECL_VERIFY_PROJECT; method++) {
        moecl_verify_report report;
        ASSERT_OK(context,
                  moecl_verify(context, layer, &host.weights, TOKENS, x, (moecl_verify_method)method, seed, &report));
        if (!report.passed)
            print_error("%.3g of %.3g allowed: %s\n", report.max_error, report.tolerance, report.worst);
        assert_true(report.passed);
    }
    free(x);
    moecl_layer_destroy(layer);
    host_layer_free(&host);
}

/* NaN and infinity have no pieces that they are the sum of; what comes of them is no number, and nothing else's. */
static void check_not_finite(moecl_context *context)
{
    const float values[] = {NAN, -NAN, INFINITY};
    const size_t count = sizeof(values) / sizeof(values[0]);
    struct fixture fixture;
    fixture_make(context, 1, MOECL_F16, &fixture);
    for (size_t i = 0; i < count; i++)
        fixture.x[i * IN + 7 * i] = values[i];
    array_release(&fixture.input);
    array_release(&fixture.input_16bit);
    fixture_upload_x(&fixture);
    float *got = multiply(&fixture, "products=4,piece_rows=1", false, MOECL_F16);
    const float *last = &got[(ROWS - GROUPS + 1) * OUT];
    for (size_t row = 0; row < GROUPS - 1; row++)
        for (size_t c = 0; c < OUT; c++)
            assert_true(isfinite(last[row * OUT + c]) == (row >= count));
    free(got);
    fixture_release(&fixture);
}

/* By AMX: the processor's, or, on a device whose kernels are the host's code, one that is emulated. */
static void tiles_give_the_same_bits(void **state)
{
    static const char *const parameters[] = {
        "item_rows=12,item_vectors=2,block_tiles=8,depth_steps=32,products=4,piece_rows=1",
        "item_rows=6,item_vectors=1,block_tiles=1,depth_steps=64,products=4,piece_rows=1",
        "item_rows=8,item_vectors=2,block_tiles=4,depth_steps=512,products=4,piece_rows=1",
    };
    moecl_context *context = *state;
    struct moecl_gemm *gemm;
    moecl_device_info info;
    ASSERT_OK(context, moecl_device_describe(context, true, &info));
    const bool emulated = !info.amx_bf16 && amx_emulate(context);
    if (!info.amx_bf16)
        assert_int_equal(moecl_gemm_create(context, "vector", parameters[0], &gemm), MOECL_UNSUPPORTED);
    if (!info.amx_bf16 && !emulated)
        return;
    context->info.amx_bf16 = true;
    check_all(context, parameters, small_sizes() ? 1 : 3, MOECL_BF16);
    check_all(context, parameters, small_sizes() ? 1 : 3, MOECL_F16);
    check_subnormal(context, parameters[1]);
    check_piece_rows(context);
    check_layer(context);
    check_not_finite(context);
    context->info.amx_bf16 = info.amx_bf16;
    assert_true(!emulated || amx_products() > 0);
}

/* Rows of more than a core's cache are written past it where they are whole cache lines: one group's, of as many
 * columns as that takes and of one more. */
static void check_many_rows(moecl_context *context, const char *parameters, size_t out)
{
    enum { MANY = 1100, FEW = 2 };
    const moecl_matrices_options options = {
        .groups = 1, .out = out, .in = FEW, .weights = MOECL_F32, .activations = MOECL_F32};
    const cl_uint offsets[] = {0, MANY};
    uint64_t seed = number_from_environment("MOECL_SEED", 1);
    float *x = make(MANY * FEW, sizeof *x), *matrix = make(out * FEW, sizeof *matrix);
    double *expected = make(MANY * out, sizeof *expected);
    struct moecl_gemm *gemm;
    moecl_matrices *matrices;
    random_fill(&seed, 1, x, MANY * FEW);
    random_fill(&seed, 1, matrix, out * FEW);
    for (size_t row = 0; row < MANY; row++)
        for (size_t column = 0; column < out; column++)
            expected[row * out + column] =
                (double)x[row * FEW] * matrix[column * FEW] + (double)x[row * FEW + 1] * matrix[column * FEW + 1];
    const moecl_group_weights weights = {.matrix = {matrix, MOECL_F32, out, FEW, 0, 0}};
    ASSERT_OK(context, moecl_gemm_create(context, "vector", parameters, &gemm));
    ASSERT_OK(context, moecl_matrices_create_for(gemm, &options, MOECL_NEVER_IN_PAIRS, &matrices));
    ASSERT_OK(context, moecl_matrices_set(matrices, 0, &weights));
    struct array input = array_make(context, MANY * FEW * sizeof *x, x);
    struct array ends = array_make(context, sizeof(offsets), offsets);
    struct array output = array_make(context, sizeof(float) * MANY * out, NULL);
    struct array workspace = array_make(context, moecl_grouped_gemm_workspace_size(matrices, MANY), NULL);
    const moecl_grouped_gemm_call call = {.rows = MANY,
                                          .input = input.buffer,
                                          .input_type = MOECL_F32,
                                          .offsets = ends.buffer,
                                          .output = output.buffer,
                                          .workspace = workspace.buffer};
    ASSERT_OK(context, moecl_grouped_gemm(matrices, &call, 0, NULL, NULL));
    double *got = array_doubles(context, output, MOECL_F32);
    ASSERT_CLOSE(got, expected, MANY * out, 1e-6);
    free(got);
    free(x);
    free(matrix);
    free(expected);
    array_release(&input);
    array_release(&ends);
    array_release(&output);
    array_release(&workspace);
    moecl_matrices_destroy(matrices);
    moecl_gemm_destroy(gemm);
}

static void many_rows(void **state)
{
    if (small_sizes()) /* a simulator takes minutes, and has no such path */
        return;
    for (size_t out = 512; out < 514; out++) {
        check_many_rows(*state, "item_rows=6,item_vectors=1", out);
        check_many_rows(*state, "item_rows=12,item_vectors=2", out);
    }
}

/* The variant that a device of this type gets when none is named. */
static const char *chosen_for(moecl_context *context, cl_device_type type)
{
    struct moecl_gemm *gemm;
    const cl_device_type own = context->info.type;
    context->info.type = type;
    const moecl_status status = moecl_gemm_create(context, NULL, NULL, &gemm);
    context->info.type = own;
    ASSERT_OK(context, status);
    const char *name = gemm->variant->name;
    moecl_gemm_destroy(gemm);
    return name;
}

static void is_first_on_cpus_only(void **state)
{
    assert_string_equal(chosen_for(*state, CL_DEVICE_TYPE_CPU), "vector");
    assert_string_equal(chosen_for(*state, CL_DEVICE_TYPE_GPU), "tile");
    assert_string_equal(chosen_for(*state, CL_DEVICE_TYPE_ACCELERATOR), "tile");
}

static void refuses_parameters_that_do_not_fit(void **state)
{
    struct moecl_gemm *gemm;
    assert_int_equal(moecl_gemm_create(*state, "vector", "item_rows=7", &gemm), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_gemm_create(*state, "vector", "stage_depth=0", &gemm), MOECL_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_height_gives_the_same_bits),
        cmocka_unit_test(bf16_as_floats_gives_the_bits_of_f32),
        cmocka_unit_test(pairs_give_the_same_bits),
        cmocka_unit_test(tiles_give_the_same_bits),
        cmocka_unit_test(many_rows),
        cmocka_unit_test(is_first_on_cpus_only),
        cmocka_unit_test(refuses_parameters_that_do_not_fit),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
