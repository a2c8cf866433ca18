/* SPDX-License-Identifier: Apache-2.0 */
/* test_load_memory.c - the peak of host memory while a layer of some 800 MB is loaded, resident pages of the file
 * included: at most 1.25 times the packed weights, on a device whose memory is the host's. */
#include "check.h"

#include <moecl/model.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "scratch.h"

/* One layer of olmoe-1b-7b. */
enum { EXPERTS = 64, HIDDEN = 2048, INTERMEDIATE = 1024, TOP_K = 8 };

/* ---------------------------------------------------------------------------------------------- a checkpoint -- */

/* Appends a BF16 tensor's entry to the header. */
static void add_tensor(FILE *header, const char *name, size_t rows, size_t columns, size_t *end)
{
    const size_t begin = *end;
    *end += rows * columns * 2;
    fprintf(header,
            "%s\"model.layers.0.mlp.%s.weight\":{\"dtype\":\"BF16\",\"shape\":[%zu,%zu],\"data_offsets\":[%zu,%zu]}",
            begin > 0 ? "," : "{", name, rows, columns, begin, *end);
}

static char *make_header(size_t *data_size)
{
    char *text, name[64];
    size_t size;
    FILE *header = open_memstream(&text, &size);
    assert_non_null(header);
    *data_size = 0;
    for (size_t expert = 0; expert < EXPERTS; expert++) {
        (void)snprintf(name, sizeof name, "experts.%zu.down_proj", expert);
        add_tensor(header, name, HIDDEN, INTERMEDIATE, data_size);
        (void)snprintf(name, sizeof name, "experts.%zu.gate_proj", expert);
        add_tensor(header, name, INTERMEDIATE, HIDDEN, data_size);
        (void)snprintf(name, sizeof name, "experts.%zu.up_proj", expert);
        add_tensor(header, name, INTERMEDIATE, HIDDEN, data_size);
    }
    add_tensor(header, "gate", EXPERTS, HIDDEN, data_size);
    fprintf(header, "}");
    assert_int_equal(fclose(header), 0);
    return text;
}

static void write_checkpoint(const char *directory)
{
    enum { BLOCK = 1 << 20 };
    char config[300], *path = scratch_path(directory, "model.safetensors"), *block = make(BLOCK, 1);
    size_t data_size;
    char *header = make_header(&data_size);
    uint64_t length = strlen(header);
    FILE *file = fopen(path, "wb");

    (void)snprintf(config, sizeof config,
                   "{\"model_type\":\"olmoe\",\"num_hidden_layers\":1,\"hidden_size\":%d,\"intermediate_size\":%d,"
                   "\"num_experts\":%d,\"num_experts_per_tok\":%d}",
                   HIDDEN, INTERMEDIATE, EXPERTS, TOP_K);
    scratch_write(directory, "config.json", config, strlen(config));
    assert_non_null(file);
    assert_int_equal(fwrite(&length, sizeof length, 1, file), 1);
    assert_int_equal(fwrite(header, 1, length, file), length);
    memset(block, 0x3c, BLOCK); /* numbers near 0.01 */
    for (size_t done = 0; done < data_size; done += BLOCK) {
        size_t size = data_size - done < BLOCK ? data_size - done : BLOCK;
        assert_int_equal(fwrite(block, 1, size, file), size);
    }
    assert_int_equal(fclose(file), 0);
    free(header);
    free(block);
    free(path);
}

/* ------------------------------------------------------------------------------------------------ the measure -- */

/* A row of /proc/self/status, in bytes. */
static size_t memory_status(const char *row)
{
    char line[256];
    size_t kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, row, strlen(row)) == 0)
            kilobytes = strtoul(line + strlen(row), NULL, 10);
    assert_int_equal(fclose(file), 0);
    assert_true(kilobytes > 0);
    return kilobytes * 1024;
}

/* The peak is the present again. */
static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    assert_non_null(file);
    assert_int_equal(fputs("5", file), 1);
    assert_int_equal(fclose(file), 0);
}

static moecl_layer *load(moecl_context *context, const char *directory, const char *variant)
{
    moecl_model *model;
    moecl_layer_options options;
    moecl_layer *layer;
    ASSERT_OK(context, moecl_model_open(context, directory, NULL, &model));
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    options.variant = variant;
    ASSERT_OK(context, moecl_layer_load(model, 0, &options, &layer));
    moecl_model_close(model);
    return layer;
}

static void test_peak(void **state)
{
    const char *directory = *state;
    moecl_context *context = open_context();
    write_checkpoint(directory);
    for (size_t i = 0; moecl_variant_name(i); i++) {
        const char *variant = moecl_variant_name(i);
        /* the compiler, the programs: what stays in the process whatever the layer's size */
        moecl_layer_destroy(load(context, MOECL_TEST_DATA "/golden/olmoe", variant));

        reset_peak();
        const size_t before = memory_status("VmRSS:");
        moecl_layer *layer = load(context, directory, variant);
        const size_t peak = memory_status("VmHWM:") - before, weights = moecl_layer_weight_bytes(layer);
        print_message("%s: %zu MB of weights, a peak of %zu MB: %.3f\n", variant, weights / 1000000, peak / 1000000,
                      (double)peak / (double)weights);
        assert_true(weights >= (size_t)3 * EXPERTS * HIDDEN * INTERMEDIATE * 2);
        assert_true((double)peak <= 1.25 * (double)weights);
        moecl_layer_destroy(layer);
    }
    moecl_context_destroy(context);
}

/* Around the test, so that a failure leaves no 800 MB behind. */
static int make_directory(void **state)
{
    *state = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    scratch_remove(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_peak, make_directory, remove_directory)};
    return cmocka_run_group_tests_name("load_memory", tests, NULL, NULL);
}
