/* SPDX-License-Identifier: Apache-2.0 */
/* test_cli.c - the moecl tool as its users meet it: usage, exit statuses, sentences, files, JSON. */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../tools/npy.h"
#include "program.h"
#include "scratch.h"

#define CLI(...) program_run((const char *const[]){MOECL_CLI, __VA_ARGS__, NULL}, NULL)

static const char tiny[] = MOECL_TEST_DATA "/tiny-qwen3-moe";
static const char tiny_x[] = MOECL_TEST_DATA "/tiny-qwen3-moe/layer0_x.npy";
static const char tiny_y[] = MOECL_TEST_DATA "/tiny-qwen3-moe/layer0_y.npy";
static const char *const commands[] = {"devices", "inspect", "run", "verify", "bench"};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static char *directory;

static int make_directory(void **state)
{
    (void)state;
    directory = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    scratch_remove(directory);
    return 0;
}

/* Writes an f4 [rows, columns] file into the directory; free() its path. */
static char *write_floats(const char *name, size_t rows, size_t columns, const float *values)
{
    struct fault fault;
    struct output_file file;
    const size_t shape[] = {rows, columns};
    char *path = scratch_path(directory, name);
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_F4, 2, shape, values, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    return path;
}

/* The same for i4 or i8. */
static char *write_integers(const char *name, enum npy_type type, size_t rank, const size_t *shape, const void *values)
{
    struct fault fault;
    struct output_file file;
    char *path = scratch_path(directory, name);
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, type, rank, shape, values, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    return path;
}

static size_t count_files(void)
{
    size_t count = 0;
    DIR *opened = opendir(directory);
    assert_non_null(opened);
    for (struct dirent *entry; (entry = readdir(opened));)
        count += entry->d_name[0] != '.';
    closedir(opened);
    return count;
}

/* Fails unless the program ended so, with `sentence` on standard error. */
static void assert_ended(struct program_result result, int status, const char *sentence)
{
    if (result.status != status || !strstr(result.error, sentence))
        fail_msg("status %d instead of %d; '%s' should say '%s'", result.status, status, result.error, sentence);
    program_result_free(&result);
}

/* ---------------------------------------------------------------------------------------------------- usage -- */

static void test_help_and_version(void **state)
{
    (void)state;
    struct program_result result = CLI("--version");
    assert_string_equal(result.output, "moecl " MOECL_VERSION_STRING "\n");
    program_result_free(&result);

    result = CLI("help");
    assert_int_equal(result.status, 0);
    for (size_t i = 0; i < COMMANDS; i++)
        assert_non_null(strstr(result.output, commands[i]));
    program_result_free(&result);
    for (size_t i = 0; i < COMMANDS; i++) {
        struct program_result help = CLI("help", commands[i]), option = CLI(commands[i], "--help");
        assert_int_equal(help.status, 0);
        assert_int_equal(option.status, 0);
        assert_string_equal(help.output, option.output);
        assert_non_null(strstr(help.output, "Usage: moecl "));
        assert_non_null(strstr(help.output, "--device SPEC"));
        assert_non_null(strstr(help.output, "--json"));
        assert_non_null(strstr(help.output, "\nExamples:\n  moecl "));
        program_result_free(&help);
        program_result_free(&option);
    }
}

static void test_wrong_use(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[12];
        const char *sentence;
    } uses[] = {
        {{NULL}, "Usage: moecl COMMAND"},
        {{"walk"}, "moecl: there is no command 'walk'"},
        {{"help", "walk"}, "there is no command 'walk'"},
        {{"devices", "--fast"}, "moecl devices: unknown option '--fast'\ntry 'moecl devices --help'"},
        {{"devices", "-x"}, "unknown option '-x'"},
        {{"devices", "here"}, "unexpected argument 'here'"},
        {{"devices", "--json", "--json"}, "--json is given twice"},
        {{"devices", "--json=yes"}, "--json takes no value"},
        {{"devices", "--device"}, "--device needs a value, SPEC"},
        {{"devices", "--device="}, "--device may not be empty"},
        {{"inspect"}, "MODEL is missing"},
        {{"inspect", "a", "b"}, "one MODEL is enough: unexpected 'b'"},
        {{"run", tiny, "--layer", "0", "--output", "y.npy"}, "--input is missing"},
        {{"run", tiny, "--layer", "--input", "x.npy"}, "--layer needs a value, N"},
        {{"run", tiny, "--layer", "-1", "--input", "x.npy"}, "--layer takes a whole number, not '-1'"},
        {{"run", tiny, "--layer", "99999999999999999999"}, "--layer takes a whole number"},
        {{"run", tiny, "--layer", "3", "--input", tiny_x, "--output", "y.npy"},
         "has no layer 3: its layers are 0 to 2"},
        {{"run", tiny, "--dtype", "f64"}, "--dtype takes f32, f16 or bf16, not 'f64'"},
        {{"run", tiny, "--variant", "magic"}, "--variant takes vector"},
        {{"run", tiny, "--tolerance", "nan"}, "--tolerance takes a number"},
        {{"run", tiny, "--layer", "0", "--input", tiny_x, "--output", "same", "--ids", "same"}, "same file, same"},
        {{"run", tiny, "--layer", "0", "--input", tiny_x, "--output", "same", "--heatmap", "same"}, "same file, same"},
        {{"run", tiny, "--input", tiny_x, "--output", "y.npy"}, "--layer is missing"},
        {{"run", tiny, "--input", tiny_x}, "--layer is missing"},
        {{"run", tiny, "--input", tiny_x, "--stats", "--ids", "ids.npy"}, "--layer is missing"},
        {{"run", tiny, "--layer", "0", "--input", tiny_x, "--stats"}, "--output is missing"},
        {{"run", tiny, "--layer", "0", "--input", tiny_x, "--output", "y.npy", "--use-ids", "i.npy"},
         "--use-ids and --use-weights go together"},
        {{"verify", "--method", "quick"}, "--method takes auto, full or project, not 'quick'"},
        {{"verify", tiny}, "MODEL and --layer go together"},
        {{"verify", "--shape", "4,8,8,2", "--random", "3"}, "exclude each other"},
        {{"verify", "--random", "0"}, "checks nothing"},
        {{"bench", "--shape", "nonesuch"}, "--shape takes four numbers"},
        {{"bench", "--shape", "4,8,8"}, "--shape takes four numbers"},
        {{"bench", "--shape", "4,8,8,2,1"}, "--shape takes four numbers"},
        {{"bench", "--shape", "4,8,8,5"}, "k must be 1 to 4"},
        {{"bench", "--shape", "1025,8,8,5"}, "E must be 1 to 1024"},
        {{"bench", "--shape", "4,0,8,2"}, "H and I must be 1 to"},
        {{"bench", "--tokens", "1,,2"}, "--tokens takes a whole number, not ''"},
        {{"bench", "--tokens", "0"}, "--tokens must be 1 to 1048576, not 0"},
        {{"bench", "--tokens", "1048577"}, "--tokens must be 1 to 1048576, not 1048577"},
        {{"bench", "--routing", "fair"}, "--routing takes uniform, zipf or single, not 'fair'"},
    };
    for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
        const char *arguments[16] = {MOECL_CLI};
        memcpy(arguments + 1, uses[i].arguments, sizeof(uses[i].arguments));
        struct program_result result = program_run(arguments, NULL);
        assert_string_equal(result.output, "");
        assert_ended(result, 2, uses[i].sentence);
    }
}

/* ---------------------------------------------------------------------------------------------------- files -- */

/* What `run` refuses before it opens a device, and that it then leaves no file. */
static void test_bad_inputs(void **state)
{
    (void)state;
    static const float values[4 * 128] = {0};
    float spoilt[4 * 128] = {0};
    char *y = scratch_path(directory, "y.npy"), *absent = scratch_path(directory, "absent.npy");
    char *narrow = write_floats("narrow.npy", 8, 64, values), *short_y = write_floats("short.npy", 3, 128, values);
    char *good = write_floats("good.npy", 4, 128, values);
    spoilt[2 * 128 + 17] = NAN;
    char *nan = write_floats("nan.npy", 4, 128, spoilt);
    spoilt[2 * 128 + 17] = -INFINITY;
    char *infinite = write_floats("infinite.npy", 4, 128, spoilt);
    spoilt[2 * 128 + 17] = 1e5f;
    char *large = write_floats("large.npy", 4, 128, spoilt);
    const size_t files = count_files();
    const struct {
        const char *input, *option, *value, *sentence;
    } inputs[] = {
        {absent, "--ids", "/dev/null", "absent.npy: No such file"},
        {directory, "--ids", "/dev/null", "it is not a regular file"},
        {MOECL_TEST_DATA "/tiny-qwen3-moe/config.json", "--ids", "/dev/null", "no NumPy file"},
        {narrow, "--ids", "/dev/null", "has rows of 64, and the layer's hidden size is 128"},
        {nan, "--ids", "/dev/null", "nan.npy holds NaN in row 2, column 17"},
        {infinite, "--ids", "/dev/null", "infinite.npy holds infinity in row 2, column 17"},
        {large, "--activations", "f16",
         "large.npy holds infinity in row 2, column 17 (counted from 0) once it is rounded"},
        {good, "--expect", short_y, "short.npy has 3 tokens"},
        {good, "--expect", nan, "nan.npy holds NaN"},
        {good, "--ids", "/nonesuch/ids.npy", "cannot write /nonesuch/ids.npy: No such file"},
        {good, "--weights", directory, "it is a directory"},
    };
    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        assert_ended(CLI("run", tiny, "--layer", "0", "--input", inputs[i].input, "--output", y, inputs[i].option,
                         inputs[i].value),
                     3, inputs[i].sentence);
        assert_int_equal(count_files(), files);
    }
    char *paths[] = {y, absent, narrow, short_y, good, nan, infinite, large};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
}

/* Token ids and routings that do not fit: refused before a device is opened, and no file is left. */
static void test_bad_routings(void **state)
{
    (void)state;
    static const float values[4 * 128] = {0}, weights[4 * 4] = {1}, bad_weights[4 * 4] = {[9] = INFINITY};
    static const int32_t ids[4 * 4] = {0, 1, 2, -1, 31}, bad_ids[4 * 4] = {[6] = 32}, lower_ids[4 * 4] = {[15] = -2};
    static const int64_t token_ids[4] = {0, 1, 2, 3}, bad_token_ids[4] = {0, 0, INT64_C(1) << 40, 0};
    const size_t square[] = {4, 4}, narrow[] = {4, 3}, four[] = {4}, three[] = {3};
    char *x = write_floats("x.npy", 4, 128, values), *good_weights = write_floats("w.npy", 4, 4, weights);
    char *infinite = write_floats("infinite.npy", 4, 4, bad_weights), *wide = write_floats("wide.npy", 4, 5, values);
    char *good = write_integers("i.npy", NPY_I4, 2, square, ids);
    char *large = write_integers("large.npy", NPY_I4, 2, square, bad_ids);
    char *lower = write_integers("lower.npy", NPY_I4, 2, square, lower_ids);
    char *few = write_integers("few.npy", NPY_I4, 2, narrow, ids);
    char *tokens = write_integers("t.npy", NPY_I8, 1, four, token_ids);
    char *short_tokens = write_integers("short.npy", NPY_I8, 1, three, token_ids);
    char *bad_tokens = write_integers("bad.npy", NPY_I8, 1, four, bad_token_ids);
    char *y = scratch_path(directory, "y.npy");
    const size_t files = count_files();
    const struct {
        const char *ids, *weights, *token_ids, *sentence;
    } cases[] = {
        {large, good_weights, tokens, "large.npy holds 32 in row 1 (counted from 0): ids are -1 to 31"},
        {lower, good_weights, tokens, "lower.npy holds -2 in row 3"},
        {few, good_weights, tokens, "few.npy is [4,3], and 4 tokens of 4 choices are wanted"},
        {good, wide, tokens, "wide.npy is [4,5], and 4 tokens of 4 choices are wanted"},
        {good, infinite, tokens, "infinite.npy holds infinity in row 2, column 1"},
        {x, good_weights, tokens, "x.npy"},
        {good, good_weights, short_tokens, "short.npy has 3 token ids, and there are 4 tokens"},
        {good, good_weights, bad_tokens, "bad.npy holds 1099511627776 in row 2"},
        {good, good_weights, good, "i.npy"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_ended(CLI("run", tiny, "--layer", "0", "--input", x, "--output", y, "--use-ids", cases[i].ids,
                         "--use-weights", cases[i].weights, "--token-ids", cases[i].token_ids),
                     3, cases[i].sentence);
        assert_int_equal(count_files(), files);
    }
    char *paths[] = {x, good_weights, infinite, wide, good, large, lower, few, tokens, short_tokens, bad_tokens, y};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
}

/* A layer that routes by token ids, of a table of 128. */
static void test_layers_that_need_token_ids(void **state)
{
    (void)state;
    static const char model[] = MOECL_TEST_DATA "/golden/deepseek_v4";
    static const float values[3 * 64] = {1};
    static const int32_t good[] = {0, 127, 5}, large[] = {0, 5, 128}, negative[] = {-1, 0, 0};
    const size_t three[] = {3};
    char *x = write_floats("x.npy", 3, 64, values), *ids = write_integers("ids.npy", NPY_I4, 1, three, good);
    char *large_ids = write_integers("large.npy", NPY_I4, 1, three, large);
    char *negative_ids = write_integers("negative.npy", NPY_I4, 1, three, negative);
    const struct {
        const char *ids, *sentence;
    } refused[] = {{large_ids, "large.npy holds 128 in row 2 (counted from 0): ids are 0 to 127"},
                   {negative_ids, "negative.npy holds -1 in row 0"}};
    assert_ended(CLI("run", model, "--layer", "0", "--input", x, "--output", "/dev/null"), 2, "--token-ids is missing");
    assert_ended(CLI("run", model, "--input", x, "--stats"), 2, "--token-ids is missing");
    for (size_t i = 0; i < 2; i++)
        assert_ended(
            CLI("run", model, "--layer", "0", "--input", x, "--output", "/dev/null", "--token-ids", refused[i].ids), 3,
            refused[i].sentence);
    assert_ended(CLI("run", model, "--layer", "0", "--input", x, "--output", "/dev/null", "--token-ids", ids), 0, "");
    assert_ended(CLI("run", model, "--input", x, "--stats", "--token-ids", ids), 0, "");
    char *paths[] = {x, ids, large_ids, negative_ids};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
}

static void test_models_that_are_none(void **state)
{
    (void)state;
    assert_ended(CLI("inspect", "/nonesuch"), 3, "moecl inspect: ");
    assert_ended(CLI("run", "/nonesuch", "--layer", "0", "--input", tiny_x, "--output", "/dev/null"), 3, "/nonesuch");
    scratch_write(directory, "config.json", "{\"model_type\": \"mystery\"}", 25);
    assert_ended(CLI("inspect", directory), 3, "mystery");
}

/* All outputs, or none: the second cannot be written whole. */
static void test_a_full_disk_leaves_nothing(void **state)
{
    (void)state;
    char *y = scratch_path(directory, "y.npy");
    const size_t files = count_files();
    assert_ended(CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--ids", "/dev/full"), 3,
                 "cannot write /dev/full: No space left");
    assert_int_equal(count_files(), files);
    free(y);
}

static void test_an_expectation_that_fails(void **state)
{
    (void)state;
    struct fault fault;
    struct npy_array array;
    char *y = scratch_path(directory, "y.npy");
    assert_int_equal(npy_read(tiny_y, 2, NPY_F4, &array, &fault), OUTCOME_SUCCESS);
    ((float *)array.data)[5 * 128 + 7] += 1000;
    char *wrong = write_floats("wrong.npy", array.shape[0], array.shape[1], array.data);
    npy_free(&array);
    assert_ended(CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--expect", wrong), 1,
                 "most of it in token 5, column 7");
    assert_int_equal(access(y, F_OK), 0); /* to be looked at */
    assert_ended(
        CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--expect", tiny_y, "--tolerance", "1e-12"),
        1, "is not what");
    free(wrong);
    free(y);
}

/* -------------------------------------------------------------------------------------------------- routing -- */

static json_t *run_json(const char *const *arguments);
static void assert_keys(const json_t *json, const char *keys);
#define JSON(...) run_json((const char *const[]){MOECL_CLI, __VA_ARGS__, "--json", NULL})

static size_t integer(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    if (!json_is_integer(value))
        fail_msg("no integer '%s'", key);
    return (size_t)json_integer_value(value);
}

static double number(const json_t *json, const char *key)
{
    const json_t *value = json_object_get(json, key);
    if (!json_is_number(value))
        fail_msg("no number '%s'", key);
    return json_number_value(value);
}

/* The routing that a run wrote, given to another, gives the same y; with a choice taken away, another. */
static void test_a_routing_of_ones_own(void **state)
{
    (void)state;
    struct fault fault;
    struct npy_array ids;
    char *y = scratch_path(directory, "y.npy"), *weights = scratch_path(directory, "w.npy");
    char *chosen = scratch_path(directory, "ids.npy");
    assert_ended(
        CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--ids", chosen, "--weights", weights), 0,
        "");
    assert_ended(CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--use-ids", chosen,
                     "--use-weights", weights, "--expect", tiny_y),
                 0, "");
    assert_int_equal(npy_read(chosen, 2, NPY_I4, &ids, &fault), OUTCOME_SUCCESS);
    ((int32_t *)ids.data)[3 * 4] = -1;
    free(write_integers("ids.npy", NPY_I4, 2, ids.shape, ids.data));
    int64_t *wide = make(ids.count, sizeof *wide);
    for (size_t i = 0; i < ids.count; i++)
        wide[i] = ((int32_t *)ids.data)[i];
    char *fewer = write_integers("fewer.npy", NPY_I8, 2, ids.shape, wide);
    assert_ended(CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--use-ids", fewer, "--use-weights",
                     weights, "--expect", tiny_y),
                 1, "most of it in token 3, column");
    json_t *json = JSON("run", tiny, "--layer", "0", "--input", tiny_x, "--output", y, "--use-ids", fewer,
                        "--use-weights", weights, "--stats");
    assert_int_equal(integer(json_object_get(json, "statistics"), "dropped"), 1);
    assert_int_equal(integer(json_object_get(json, "statistics"), "used"), 1024 * 4 - 1);
    json_decref(json);
    npy_free(&ids);
    free(wide);
    free(y);
    free(weights);
    free(chosen);
    free(fewer);
}

/* The figures are those of the load. */
static void assert_statistics(const json_t *statistics, const json_t *load)
{
    const size_t outputs = json_array_size(load);
    double used = 0, largest_load = 0, entropy = 0, squares = 0;
    assert_keys(statistics, "used dropped unserved_tokens largest idle mean max_over_mean entropy evenness cv_squared");
    for (size_t e = 0; e < outputs; e++) {
        const double one = (double)json_integer_value(json_array_get(load, e));
        used += one;
        squares += one * one;
        largest_load = fmax(largest_load, one);
    }
    for (size_t e = 0; e < outputs; e++) {
        const double share = (double)json_integer_value(json_array_get(load, e)) / used;
        entropy -= share > 0 ? share * log(share) : 0;
    }
    const double mean = used / (double)outputs;
    assert_true(integer(statistics, "used") == (size_t)used);
    assert_true(fabs(number(statistics, "max_over_mean") - largest_load / mean) < 1e-4);
    assert_true(fabs(number(statistics, "entropy") - entropy) < 1e-4);
    assert_true(fabs(number(statistics, "evenness") - entropy / log((double)outputs)) < 1e-4);
    assert_true(fabs(number(statistics, "cv_squared") - (squares / (double)outputs / (mean * mean) - 1)) < 1e-4);
}

static void test_statistics_of_a_layer(void **state)
{
    (void)state;
    json_t *json = JSON("run", tiny, "--layer", "0", "--input", tiny_x, "--output", "/dev/null", "--stats");
    assert_statistics(json_object_get(json, "statistics"), json_object_get(json, "load"));
    json_decref(json);
    struct program_result result =
        CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", "/dev/null", "--stats");
    assert_int_equal(result.status, 0);
    const char *const words[] = {"max/mean", "entropy", "CV^2", "dropped", "of ln 32"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        assert_non_null(strstr(result.output, words[i]));
    program_result_free(&result);
}

/* The same model with its experts choosing: each takes 1024 * 4 / 32 tokens, the routing has a column for each, and
 * given back it is the same. */
static void test_experts_that_choose(void **state)
{
    (void)state;
    static const char family[] = "{\"like\": \"qwen3_moe\", \"model_types\": \"choosing\", \"options\": "
                                 "{\"router\": {\"selection\": \"expert-choice\", \"normalisation\": \"none\"}}}";
    struct fault fault;
    struct npy_array ids, first, second;
    scratch_write(directory, "family.json", family, sizeof(family) - 1);
    char *path = scratch_path(directory, "family.json"), *chosen = scratch_path(directory, "ids.npy");
    char *y = scratch_path(directory, "y.npy"), *weights = scratch_path(directory, "w.npy");
    char *again = scratch_path(directory, "again.npy"), *picture = scratch_path(directory, "load.svg");
    json_t *json = JSON("run", tiny, "--family", path, "--layer", "0", "--input", tiny_x, "--output", y, "--ids",
                        chosen, "--weights", weights, "--stats", "--heatmap", picture);
    const json_t *statistics = json_object_get(json, "statistics");
    assert_int_equal(integer(statistics, "used"), 1024 * 4);
    assert_int_equal(integer(statistics, "dropped"), 0);
    assert_int_equal(integer(statistics, "largest"), 128);
    assert_true(number(statistics, "cv_squared") == 0);
    const size_t unserved = integer(statistics, "unserved_tokens");
    assert_int_equal(json_array_size(json_object_get(json, "layers")), 3);
    json_decref(json);

    assert_int_equal(npy_read(chosen, 2, NPY_I4, &ids, &fault), OUTCOME_SUCCESS);
    assert_int_equal(ids.shape[1], 32);
    size_t without = 0, several = 0;
    for (size_t t = 0; t < 1024; t++) {
        size_t used = 0;
        for (size_t e = 0; e < 32; e++) {
            const int32_t id = ((int32_t *)ids.data)[t * 32 + e];
            assert_true(id == -1 || id == (int32_t)e);
            used += id >= 0;
        }
        without += used == 0;
        several += used > 4;
    }
    assert_int_equal(unserved, without);
    assert_true(several > 0);
    assert_ended(CLI("run", tiny, "--family", path, "--layer", "0", "--input", tiny_x, "--output", again, "--use-ids",
                     chosen, "--use-weights", weights),
                 0, "");
    assert_int_equal(npy_read(y, 2, NPY_F4, &first, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_read(again, 2, NPY_F4, &second, &fault), OUTCOME_SUCCESS);
    assert_memory_equal(first.data, second.data, first.count * sizeof(float));
    npy_free(&ids);
    npy_free(&first);
    npy_free(&second);
    char *paths[] = {path, chosen, y, weights, again, picture};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
}

/* What a router does by chance is said, as all else that it does. */
static void test_a_router_of_chance(void **state)
{
    (void)state;
    static const char family[] = "{\"like\": \"qwen3_moe\", \"model_types\": \"chance\", \"options\": "
                                 "{\"router\": {\"random_second\": true}}}";
    scratch_write(directory, "family.json", family, sizeof(family) - 1);
    char *path = scratch_path(directory, "family.json");
    struct program_result result = CLI("inspect", tiny, "--family", path);
    assert_int_equal(result.status, 0);
    assert_non_null(strstr(result.output, "divided by their sum, those behind the first kept with twice their "));
    program_result_free(&result);
    free(path);
}

static size_t occurrences(const char *text, const char *part)
{
    size_t count = 0;
    for (; (text = strstr(text, part)); text += strlen(part))
        count++;
    return count;
}

/* All three layers, each on a file of its own: the middle one with fewer tokens. */
static void test_a_picture_of_the_model(void **state)
{
    (void)state;
    struct fault fault;
    struct npy_array x;
    size_t size;
    assert_int_equal(npy_read(tiny_x, 2, NPY_F4, &x, &fault), OUTCOME_SUCCESS);
    char *paths[] = {write_floats("x0.npy", 1024, 128, x.data), write_floats("x1.npy", 100, 128, x.data),
                     write_floats("x2.npy", 1024, 128, x.data), scratch_path(directory, "x#.npy"),
                     scratch_path(directory, "load.svg")};
    npy_free(&x);
    json_t *json = JSON("run", tiny, "--input", paths[3], "--heatmap", paths[4]);
    const json_t *layers = json_object_get(json, "layers");
    assert_int_equal(json_array_size(layers), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *layer = json_array_get(layers, i);
        assert_int_equal(integer(layer, "layer"), i);
        assert_int_equal(integer(layer, "tokens"), i == 1 ? 100 : 1024);
        assert_int_equal(json_array_size(json_object_get(layer, "load")), 32);
        assert_int_equal(integer(json_object_get(layer, "statistics"), "used"), (i == 1 ? 100 : 1024) * 4);
        assert_statistics(json_object_get(layer, "statistics"), json_object_get(layer, "load"));
    }
    char *picture = scratch_read(directory, "load.svg", &size);
    assert_non_null(strstr(picture, "<svg xmlns"));
    assert_non_null(strstr(picture, "</svg>"));
    assert_int_equal(occurrences(picture, "x mean</title></rect>"), 3 * 32);
    char cell[64];
    snprintf(cell, sizeof(cell), "layer 2, expert 31: %zu choices",
             (size_t)json_integer_value(json_array_get(json_object_get(json_array_get(layers, 2), "load"), 31)));
    assert_non_null(strstr(picture, cell));
    free(picture);

    /* Layer 0 is loaded as the run of that layer alone loads it. */
    json_t *alone = JSON("run", tiny, "--layer", "0", "--input", paths[3], "--output", "/dev/null");
    assert_true(json_equal(json_object_get(alone, "load"), json_object_get(json_array_get(layers, 0), "load")));
    json_decref(alone);
    json_decref(json);
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        free(paths[i]);
}

/* Failing in a later layer, or at the end, leaves no picture. */
static void test_no_picture_of_half_a_model(void **state)
{
    (void)state;
    static const float values[128] = {0};
    char *x = write_floats("x0.npy", 1, 128, values), *pattern = scratch_path(directory, "x#.npy");
    char *picture = scratch_path(directory, "load.svg");
    const size_t files = count_files();
    assert_ended(CLI("run", tiny, "--input", pattern, "--heatmap", picture), 3, "x1.npy");
    assert_ended(CLI("run", tiny, "--input", x, "--heatmap", "/dev/full"), 3, "cannot write /dev/full: No space left");
    assert_int_equal(count_files(), files);
    free(x);
    free(pattern);
    free(picture);
}

static void test_standard_output_that_fails(void **state)
{
    (void)state;
    char *pipe_path = scratch_path(directory, "closed");
    for (size_t i = 0; i < 2; i++) {
        const char *const help[] = {MOECL_CLI, "help", NULL};
        const char *const devices[] = {MOECL_CLI, "devices", i == 0 ? "--json" : NULL, NULL};
        assert_ended(program_run(help, "/dev/full"), 3, "cannot write to standard output");
        assert_ended(program_run(devices, "/dev/full"), 3, "cannot write to standard output");
    }
    /* A reader that goes away, as `moecl help | true` has it. */
    char command[4096];
    snprintf(command, sizeof(command), "(sleep 0.2; '%s' help; echo $? > '%s') | true; sleep 0.5", MOECL_CLI,
             pipe_path);
    const char *const shell[] = {"/bin/sh", "-c", command, NULL};
    assert_ended(program_run(shell, NULL), 0, "cannot write to standard output: Broken pipe");
    size_t size;
    char *status = scratch_read(directory, "closed", &size);
    assert_string_equal(status, "3\n");
    free(status);
    free(pipe_path);
}

/* --------------------------------------------------------------------------------------------------- devices -- */

static void test_without_the_device(void **state)
{
    (void)state;
    const char *given = getenv("MOECL_DEVICE");
    char *kept = given ? strdup(given) : NULL;
    assert_ended(CLI("inspect", tiny, "--device", "nonesuch"), 3, "nonesuch");
    assert_ended(CLI("devices", "--device", "nonesuch"), 3, "nonesuch");
    assert_int_equal(setenv("MOECL_DEVICE", "nonesuch", 1), 0);
    struct program_result result = CLI("inspect", tiny);
    assert_int_equal(result.status, 0); /* the rest is told all the same */
    assert_non_null(strstr(result.output, "qwen3_moe"));
    assert_non_null(strstr(result.output, "device   none: "));
    program_result_free(&result);
    assert_ended(CLI("run", tiny, "--layer", "0", "--input", tiny_x, "--output", "/dev/null"), 3, "nonesuch");
    if (kept)
        assert_int_equal(setenv("MOECL_DEVICE", kept, 1), 0);
    else
        assert_int_equal(unsetenv("MOECL_DEVICE"), 0);
    free(kept);
}

static void test_a_shape_too_large_is_refused(void **state)
{
    (void)state;
    assert_ended(CLI("bench", "--shape", "1024,1048576,1048576,1"), 3, "with bf16 weights needs 6 PiB, and ");
    assert_ended(CLI("verify", "--shape", "1024,1048576,1048576,1"), 3, "needs 12 PiB, and ");
}

/* ------------------------------------------------------------------------------------------------------ JSON -- */

static json_t *run_json(const char *const *arguments)
{
    json_error_t error;
    struct program_result result = program_run(arguments, NULL);
    if (result.status != 0)
        fail_msg("%s %s: %s", arguments[1], arguments[2], result.error);
    assert_string_equal(result.error, ""); /* no progress but on a terminal */
    assert_null(strchr(result.output, '\033'));
    json_t *json = json_loads(result.output, 0, &error);
    if (!json)
        fail_msg("%s: %s", error.text, result.output);
    program_result_free(&result);
    return json;
}

/* Fails unless `json` has the keys that the space-separated list names. */
static void assert_keys(const json_t *json, const char *keys)
{
    char *list = strdup(keys);
    for (char *rest = NULL, *key = strtok_r(list, " ", &rest); key; key = strtok_r(NULL, " ", &rest)) {
        if (!json_object_get(json, key))
            fail_msg("no key '%s'", key);
    }
    free(list);
}

static void test_json_of_devices(void **state)
{
    (void)state;
    json_t *json = JSON("devices");
    assert_true(json_array_size(json) >= 1);
    size_t defaults = 0;
    for (size_t i = 0; i < json_array_size(json); i++) {
        const json_t *device = json_array_get(json, i);
        assert_keys(device, "number platform name driver type compute_units memory max_allocation fp16 bf16 fp64 "
                            "integer_dot avx512_bf16 amx_bf16 subgroups subgroup_sizes");
        defaults += json_is_true(json_object_get(device, "default"));
    }
    assert_int_equal(defaults, 1);
    json_decref(json);
}

static void test_json_of_inspect(void **state)
{
    (void)state;
    json_t *json = JSON("inspect", tiny);
    assert_keys(json, "model model_type family layers moe_layers runs device");
    const json_t *layers = json_array_get(json_object_get(json, "runs"), 0);
    assert_int_equal(json_integer_value(json_object_get(layers, "first")), 0);
    assert_int_equal(json_integer_value(json_object_get(layers, "last")), 2);
    /* 32 experts of 3 * 64 * 128 and a router of 32 * 128; 4 experts a token; weights bf16, router f32 */
    assert_int_equal(json_integer_value(json_object_get(layers, "parameters")), 790528);
    assert_int_equal(json_integer_value(json_object_get(layers, "bytes")), 1589248);
    assert_int_equal(json_integer_value(json_object_get(layers, "parameters_per_token")), 102400);
    assert_int_equal(json_integer_value(json_object_get(layers, "flops_per_token")), 204800);
    json_decref(json);
}

static void test_json_of_run(void **state)
{
    (void)state;
    json_t *json = JSON("run", tiny, "--layer", "0", "--input", tiny_x, "--output", "/dev/null", "--expect", tiny_y);
    assert_keys(json, "model layer device experts hidden intermediate top_k tokens dtype activations variant "
                      "milliseconds tokens_per_second load stages_milliseconds expected");
    size_t sum = 0;
    const json_t *load = json_object_get(json, "load");
    assert_int_equal(json_array_size(load), 32);
    for (size_t e = 0; e < 32; e++)
        sum += (size_t)json_integer_value(json_array_get(load, e));
    assert_int_equal(sum, 1024 * 4);
    assert_true(json_is_true(json_object_get(json_object_get(json, "expected"), "passed")));
    json_decref(json);
}

static void test_json_of_verify(void **state)
{
    (void)state;
    json_t *json = JSON("verify", "--random", "2", "--small", "--seed", "11");
    const json_t *checks = json_object_get(json, "checks");
    assert_int_equal(json_integer_value(json_object_get(json, "failed")), 0);
    assert_int_equal(json_integer_value(json_object_get(json, "passed")) +
                         json_integer_value(json_object_get(json, "unsupported")),
                     json_array_size(checks));
    assert_true(json_array_size(checks) >= 2);
    assert_keys(json_array_get(checks, 0), "seed experts hidden intermediate top_k tokens dtype activations variant "
                                           "result");
    json_decref(json);
}

static void test_json_of_bench(void **state)
{
    (void)state;
    json_t *json = JSON("bench", "--shape", "8,64,32,2", "--tokens", "1,16", "--dtype", "f32,bf16", "--variant", "tile",
                        "--seconds", "0.01", "--routing", "zipf");
    assert_int_equal(json_array_size(json), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = json_array_get(json, i);
        assert_keys(row, "experts hidden intermediate top_k tokens dtype activations variant milliseconds gflops "
                         "gbytes_per_second fraction_of_limit");
        assert_int_equal(json_integer_value(json_object_get(row, "experts")), 8);
        assert_string_equal(json_string_value(json_object_get(row, "dtype")), i < 2 ? "f32" : "bf16");
        assert_string_equal(json_string_value(json_object_get(row, "activations")), i < 2 ? "f32" : "bf16");
        assert_int_equal(json_integer_value(json_object_get(row, "tokens")), i % 2 == 0 ? 1 : 16);
        assert_true(json_real_value(json_object_get(row, "milliseconds")) > 0);
    }
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_wrong_use),
        cmocka_unit_test_setup_teardown(test_bad_inputs, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_bad_routings, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_layers_that_need_token_ids, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_models_that_are_none, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_full_disk_leaves_nothing, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_an_expectation_that_fails, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_routing_of_ones_own, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_experts_that_choose, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_a_router_of_chance, make_directory, remove_directory),
        cmocka_unit_test(test_statistics_of_a_layer),
        cmocka_unit_test_setup_teardown(test_a_picture_of_the_model, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_no_picture_of_half_a_model, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_standard_output_that_fails, make_directory, remove_directory),
        cmocka_unit_test(test_without_the_device),
        cmocka_unit_test(test_a_shape_too_large_is_refused),
        cmocka_unit_test(test_json_of_devices),
        cmocka_unit_test(test_json_of_inspect),
        cmocka_unit_test(test_json_of_run),
        cmocka_unit_test(test_json_of_verify),
        cmocka_unit_test(test_json_of_bench),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
