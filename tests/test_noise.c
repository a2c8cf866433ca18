/* SPDX-License-Identifier: Apache-2.0 */
/* test_noise.c - the random numbers of noisy passes: Philox by its published vectors, the same bits as the host's,
 * normal numbers by the normal distribution, and what a route makes of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "device/program.h"
#include "random.h"
#include "reference/philox.h"
#include "router_model.h"
#include "stages/random.h"
#include "stages/route.h"

/* ------------------------------------------------------------------------------------------------- a program -- */

/* Kernels that show what cl/philox.cl computes. */
static const char *const kernels_text =
    "__kernel void show_philox(__global uint *words, uint count)\n"
    "{\n"
    "    const uint i = get_global_id(0);\n"
    "    uint counter[4];\n"
    "    for (uint j = 0; j < 4; j++)\n"
    "        counter[j] = words[6 * i + j];\n"
    "    philox(counter, words[6 * i + 4], words[6 * i + 5]);\n"
    "    for (uint j = 0; j < 4; j++)\n"
    "        words[6 * i + j] = counter[j];\n"
    "}\n"
    "__kernel void show_normals(__global const uint *words, __global float *normals)\n"
    "{\n"
    "    normals[get_global_id(0)] = normal_of_word(words[get_global_id(0)]);\n"
    "}\n"
    "__kernel void show_numbers(ulong seed, ulong step, uint token, uint kind, __global float *uniforms,\n"
    "                           __global float *single, __global float *normals)\n"
    "{\n"
    "    const uint block = get_global_id(0);\n"
    "    const struct random_stream stream = random_stream(seed, step, token, kind);\n"
    "    float values[4];\n"
    "    random_uniforms(&stream, block, values);\n"
    "    for (uint i = 0; i < 4; i++) {\n"
    "        uniforms[4 * block + i] = values[i];\n"
    "        single[4 * block + i] = random_uniform(&stream, 4 * block + i);\n"
    "    }\n"
    "    random_normals(&stream, block, values);\n"
    "    for (uint i = 0; i < 4; i++)\n"
    "        normals[4 * block + i] = values[i];\n"
    "}\n";

static const char *source(const char *name)
{
    const struct moecl_kernel_source *file = moecl_kernel_sources;
    while (strcmp(file->name, name) != 0)
        file++;
    return file->text;
}

static cl_kernel show(moecl_context *context, const char *name)
{
    const char *const parts[] = {source("common.cl"), source("normal_table.cl"), source("philox.cl"), kernels_text};
    const size_t size = strlen(parts[0]) + strlen(parts[1]) + strlen(parts[2]) + strlen(parts[3]) + 4;
    char *text = make(size, 1);
    cl_program program = NULL;
    cl_int code = CL_SUCCESS;
    snprintf(text, size, "%s\n%s\n%s\n%s", parts[0], parts[1], parts[2], parts[3]);
    ASSERT_OK(context, moecl_program_build_source(context, text, NULL, &program));
    cl_kernel kernel = clCreateKernel(program, name, &code);
    assert_int_equal(code, CL_SUCCESS);
    clReleaseProgram(program);
    free(text);
    return kernel;
}

static void run_kernel(moecl_context *context, cl_kernel kernel, size_t items)
{
    assert_int_equal(clEnqueueNDRangeKernel(moecl_context_queue(context), kernel, 1, NULL, &items, NULL, 0, NULL, NULL),
                     CL_SUCCESS);
    assert_int_equal(clFinish(moecl_context_queue(context)), CL_SUCCESS);
}

/* An array without guards, for kernels that take plain pointers. */
static cl_mem plain(moecl_context *context, size_t size, void *content)
{
    cl_int code = CL_SUCCESS;
    cl_mem memory =
        clCreateBuffer(moecl_context_cl(context),
                       CL_MEM_READ_WRITE | (cl_mem_flags)(content ? CL_MEM_COPY_HOST_PTR : 0), size, content, &code);
    assert_int_equal(code, CL_SUCCESS);
    return memory;
}

static void read_plain(moecl_context *context, cl_mem memory, size_t size, void *to)
{
    assert_int_equal(clEnqueueReadBuffer(moecl_context_queue(context), memory, CL_TRUE, 0, size, to, 0, NULL, NULL),
                     CL_SUCCESS);
    clReleaseMemObject(memory);
}

/* ---------------------------------------------------------------------------------------------------- numbers -- */

/* counter, key, result: the vectors that Random123 comes with (kat_vectors, philox4x32 10). */
static const uint32_t vectors[][10] = {
    {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
    {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6,
     0x6d5451fd},
    {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
     0x24126ea1},
};
enum { VECTORS = 3, RANDOM_VECTORS = 61 };

static void published_vectors(void **state)
{
    uint32_t words[VECTORS + RANDOM_VECTORS][6], expected[VECTORS + RANDOM_VECTORS][4];
    uint64_t seed = 3;
    for (size_t i = 0; i < VECTORS + RANDOM_VECTORS; i++) {
        for (size_t j = 0; j < 6; j++)
            words[i][j] = i < VECTORS ? vectors[i][j] : (uint32_t)random_between(&seed, 0, UINT32_MAX);
        memcpy(expected[i], words[i], sizeof(expected[i]));
        model_philox(expected[i], words[i] + 4);
        if (i < VECTORS)
            assert_memory_equal(expected[i], vectors[i] + 6, sizeof(expected[i]));
    }
    cl_kernel kernel = show(*state, "show_philox");
    cl_mem memory = plain(*state, sizeof(words), words);
    const cl_uint count = VECTORS + RANDOM_VECTORS;
    assert_int_equal(clSetKernelArg(kernel, 0, sizeof(memory), &memory), CL_SUCCESS);
    assert_int_equal(clSetKernelArg(kernel, 1, sizeof(count), &count), CL_SUCCESS);
    run_kernel(*state, kernel, count);
    read_plain(*state, memory, sizeof(words), words);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(words[i], expected[i], sizeof(expected[i]));
    clReleaseKernel(kernel);
}

/* `count` elements of a stream, as the device has them: drawn four at a time, one at a time, and normal ones. */
struct numbers {
    float *uniforms, *single, *normals;
};

static struct numbers draw(moecl_context *context, uint64_t seed, uint64_t step, uint32_t token, uint32_t kind,
                           size_t count)
{
    struct numbers numbers = {make(count, sizeof(float)), make(count, sizeof(float)), make(count, sizeof(float))};
    float *const to[] = {numbers.uniforms, numbers.single, numbers.normals};
    cl_kernel kernel = show(context, "show_numbers");
    cl_mem memory[3];
    const cl_ulong longs[] = {seed, step};
    const cl_uint ints[] = {token, kind};
    for (cl_uint i = 0; i < 2; i++) {
        assert_int_equal(clSetKernelArg(kernel, i, sizeof(longs[i]), &longs[i]), CL_SUCCESS);
        assert_int_equal(clSetKernelArg(kernel, 2 + i, sizeof(ints[i]), &ints[i]), CL_SUCCESS);
    }
    for (cl_uint i = 0; i < 3; i++) {
        memory[i] = plain(context, count * sizeof(float), NULL);
        assert_int_equal(clSetKernelArg(kernel, 4 + i, sizeof(memory[i]), &memory[i]), CL_SUCCESS);
    }
    run_kernel(context, kernel, count / 4);
    for (size_t i = 0; i < 3; i++)
        read_plain(context, memory[i], count * sizeof(float), to[i]);
    clReleaseKernel(kernel);
    return numbers;
}

static void release(struct numbers *numbers)
{
    free(numbers->uniforms);
    free(numbers->single);
    free(numbers->normals);
}

static void same_bits_as_on_the_host(void **state)
{
    static const struct {
        uint64_t seed, step;
        uint32_t token, kind;
    } streams[] = {{0, 0, 0, MOECL_RANDOM_NOISE},
                   {0x123456789abcdef0, 0xfedcba9876543210, MOECL_MAX_TOKENS - 1, MOECL_RANDOM_INPUT_JITTER},
                   {UINT64_MAX, 1, 77, MOECL_RANDOM_SECOND}};
    const size_t count = small_sizes() ? 64 : 4096;
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        const uint64_t seed = streams[i].seed, step = streams[i].step;
        const uint32_t token = streams[i].token, kind = streams[i].kind;
        struct numbers numbers = draw(*state, seed, step, token, kind, count);
        for (uint32_t e = 0; e < count; e++) {
            const double uniform = model_uniform(seed, step, token, kind, e);
            assert_true(numbers.uniforms[e] == uniform && numbers.single[e] == uniform);
            assert_true(uniform > 0 && uniform < 1);
            assert_true(numbers.normals[e] == model_normal(seed, step, token, kind, e));
            assert_true(moecl_philox_uniform(seed, step, token, e, (enum moecl_philox_kind)kind) == uniform);
            assert_true(moecl_philox_normal(seed, step, token, e, (enum moecl_philox_kind)kind) == numbers.normals[e]);
        }
        release(&numbers);
    }
}

/* Normal numbers of `count` words, as the device has them. */
static float *normals_of(moecl_context *context, uint32_t *words, size_t count)
{
    float *normals = make(count, sizeof(*normals));
    cl_kernel kernel = show(context, "show_normals");
    cl_mem memory[] = {plain(context, count * sizeof(*words), words), plain(context, count * sizeof(*normals), NULL)};
    for (cl_uint i = 0; i < 2; i++)
        assert_int_equal(clSetKernelArg(kernel, i, sizeof(memory[i]), &memory[i]), CL_SUCCESS);
    run_kernel(context, kernel, count);
    clReleaseMemObject(memory[0]);
    read_plain(context, memory[1], count * sizeof(*normals), normals);
    clReleaseKernel(kernel);
    return normals;
}

static int by_rising_word(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* What a normal number exceeds with probability p, by Newton's method from the side where it does not overshoot. */
static double inverse_of_tail(double p)
{
    double x = 0;
    for (int i = 0; i < 100; i++)
        x += (erfc(x * sqrt(0.5)) / 2 - p) / (exp(-x * x / 2) / sqrt(2 * acos(-1.0)));
    return x;
}

/* Words at both ends of every octave of the tail, and any others: the numbers are those of the normal distribution,
 * fall while the words rise, and have the sign of the top bit. */
static void normal_distribution(void **state)
{
    enum { OCTAVES = 32, ENDS = 4, MANY = 20000 };
    const size_t count = OCTAVES * ENDS + (small_sizes() ? 200 : MANY);
    static uint32_t words[OCTAVES * ENDS + MANY];
    uint64_t seed = 21;
    for (size_t i = 0; i < count; i++)
        words[i] = i < OCTAVES * ENDS ? (0x80000000u >> i / ENDS) + (uint32_t)(i % ENDS) - 2
                                      : (uint32_t)random_between(&seed, 0, UINT32_MAX) >> random_between(&seed, 0, 20);
    for (size_t i = 0; i < count; i++)
        words[i] &= 0x7fffffff;
    qsort(words, count, sizeof(*words), by_rising_word);
    float *const positive = normals_of(*state, words, count);
    for (size_t i = 0; i < count; i++) {
        const double exact = inverse_of_tail((2.0 * words[i] + 1) * 0x1p-33);
        if (!(fabs(positive[i] - exact) < 0x1p-19))
            fail_msg("word %08x: %.9g instead of %.9g", words[i], (double)positive[i], exact);
        assert_true(positive[i] >= 0 && (i == 0 || positive[i] <= positive[i - 1]));
        assert_true(positive[i] == model_normal_of_word(words[i]));
        words[i] |= 0x80000000u;
    }
    float *const negative = normals_of(*state, words, count);
    for (size_t i = 0; i < count; i++)
        assert_true(negative[i] == -positive[i] && negative[i] == model_normal_of_word(words[i]));
    assert_true(positive[0] > 6.3f && positive[0] < 6.4f && positive[count - 1] == 0);
    free(positive);
    free(negative);
}

/* Moments of many numbers, within five of their own deviations. */
static void moments(void **state)
{
    const size_t count = small_sizes() ? 4000 : 100000;
    struct numbers numbers = draw(*state, 2026, 11, 5, MOECL_RANDOM_NOISE, count);
    double uniform = 0, normal = 0, square = 0, fourth = 0, neighbours = 0;
    for (size_t i = 0; i < count; i++) {
        const double value = numbers.normals[i];
        uniform += numbers.uniforms[i];
        normal += value;
        square += value * value;
        fourth += value * value * value * value;
        neighbours += i ? value * (double)numbers.normals[i - 1] : 0;
    }
    const double n = (double)count, five = 5 / sqrt(n);
    assert_true(fabs(uniform / n - 0.5) < five * sqrt(1.0 / 12));
    assert_true(fabs(normal / n) < five);
    assert_true(fabs(square / n - 1) < five * sqrt(2));
    assert_true(fabs(fourth / n - 3) < five * sqrt(96));
    assert_true(fabs(neighbours / n) < five);
    release(&numbers);
}

/* ------------------------------------------------------------------------------------------------- in a route -- */

/* Routes `tokens` tokens of equal logits, with noise logits of 0, in a pass; gives z [tokens,E] and the ids. */
static void route_equal(moecl_context *context, const moecl_layer_options *options, size_t tokens, uint64_t step,
                        float *z, int32_t *ids, float *weights)
{
    const size_t experts = options->experts, stride = 2 * experts, choices = tokens * options->top_k;
    const uint32_t zero = 0;
    float *none = make(tokens * stride, sizeof(float));
    struct array logits = array_make(context, tokens * stride * sizeof(float), none);
    struct array device_ids = array_make(context, choices * sizeof(int32_t), NULL);
    struct array device_weights = array_make(context, choices * sizeof(float), NULL);
    struct array flag = array_make(context, sizeof(zero), &zero);
    struct moecl_route_kernels kernels;
    struct moecl_chain chain;
    const struct moecl_route_call call = {
        .tokens = tokens,
        .logits = logits.buffer,
        .stride = stride,
        .noise_column = experts,
        .noisy = true,
        .step = step,
        .routing = {device_ids.buffer, device_weights.buffer},
        .flag = flag.buffer,
    };
    ASSERT_OK(context, moecl_route_kernels_create(context, options, &kernels));
    assert_int_equal(moecl_route_scratch_bytes(&kernels, tokens), 0);
    ASSERT_OK(context, moecl_chain_begin(&chain, context, 0, NULL));
    ASSERT_OK(context, moecl_chain_end(&chain, moecl_route_enqueue(&kernels, &chain, &call), NULL));
    float *all = array_bytes(context, logits);
    for (size_t t = 0; t < tokens; t++)
        memcpy(z + t * experts, all + t * stride, experts * sizeof(float));
    array_read(context, device_ids, ids);
    array_read(context, device_weights, weights);
    free(all);
    free(none);
    array_release(&logits);
    array_release(&device_ids);
    array_release(&device_weights);
    array_release(&flag);
    moecl_route_kernels_release(&kernels);
}

enum { TOKENS = 200, EXPERTS = 11, TOP_K = 2 };

/* z is the noise alone, times log 2; another step and another seed give other noise. */
static void noise_of_logits(void **state)
{
    moecl_layer_options options = {.experts = EXPERTS, .hidden = 1, .intermediate = 1, .top_k = TOP_K};
    static float z[3][TOKENS * EXPERTS], weights[TOKENS * TOP_K];
    static int32_t ids[TOKENS * TOP_K];
    options.router.noise = true;
    for (size_t i = 0; i < 3; i++) {
        const uint64_t step = i == 1 ? (uint64_t)1 << 40 : 0;
        options.router.seed = i == 2 ? (uint64_t)1 << 50 : 4;
        route_equal(*state, &options, TOKENS, step, z[i], ids, weights);
        for (uint32_t t = 0; t < TOKENS; t++)
            for (uint32_t e = 0; e < EXPERTS; e++) {
                const double normal = model_normal(options.router.seed, step, t, MOECL_RANDOM_NOISE, e);
                assert_true(fabs(z[i][t * EXPERTS + e] - log(2) * normal) < 4e-6);
            }
    }
    for (size_t i = 0; i < TOKENS * EXPERTS; i++)
        assert_true(z[0][i] != z[1][i] && z[0][i] != z[2][i]);
}

/* With ten experts of probability 0.1, a second choice stays one time in five; with two, always. */
static void second_choices(void **state)
{
    for (size_t experts = 2; experts <= 10; experts += 8) {
        moecl_layer_options options = {.experts = experts, .hidden = 1, .intermediate = 1, .top_k = TOP_K};
        static float z[TOKENS * EXPERTS], weights[TOKENS * TOP_K];
        static int32_t ids[TOKENS * TOP_K];
        options.router.random_second = true;
        options.router.seed = 12;
        route_equal(*state, &options, TOKENS, 3, z, ids, weights);
        size_t stay = 0;
        for (uint32_t t = 0; t < TOKENS; t++) {
            const double u = model_uniform(12, 3, t, MOECL_RANDOM_SECOND, 1), probability = 2.0 / (double)experts;
            assert_int_equal(ids[2 * t], 0);
            assert_int_equal(ids[2 * t + 1], u < probability ? 1 : -1);
            assert_true((weights[2 * t + 1] == 0) == (ids[2 * t + 1] < 0));
            stay += ids[2 * t + 1] == 1;
        }
        assert_in_range(stay, experts == 2 ? TOKENS : 20, experts == 2 ? TOKENS : 60);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_vectors),   cmocka_unit_test(same_bits_as_on_the_host),
        cmocka_unit_test(normal_distribution), cmocka_unit_test(moments),
        cmocka_unit_test(noise_of_logits),     cmocka_unit_test(second_choices),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
