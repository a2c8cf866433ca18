/* SPDX-License-Identifier: Apache-2.0 */
/* test_description.c - families out of JSON: one that says what a row of the table says reads a checkpoint as the row
 * does; and what a description can have wrong. */
#include "check.h"

#include <moecl/reference.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "interception.h"
#include "model/family.h"
#include "scratch.h"

#define DESCRIPTIONS MOECL_TEST_DATA "/../fuzz/corpus/description/"

static moecl_context *context;

static int make_context(void **state)
{
    (void)state;
    return moecl_context_create(&context) == MOECL_OK ? 0 : -1;
}

static int destroy_context(void **state)
{
    (void)state;
    moecl_context_destroy(context);
    return 0;
}

/* ------------------------------------------------------------------------------------------ the same as a row -- */

static void assert_same_options(const moecl_layer_options *a, const moecl_layer_options *b)
{
    const struct moecl_reading first = {.options = *a}, second = {.options = *b};
    for (size_t offset = 0; offset < sizeof first; offset++) {
        const struct moecl_member *member = moecl_member_at(offset);
        if (member && moecl_member_get(member, &first) != moecl_member_get(member, &second))
            fail_msg("%s: %g and %g", member->name, moecl_member_get(member, &first),
                     moecl_member_get(member, &second));
    }
    assert_int_equal(a->weights, b->weights);
    assert_int_equal(a->router.table_rows, b->router.table_rows);
}

/* y of the recorded x, by the reference. */
static double *compute(moecl_model *model, size_t layer, const moecl_layer_options *options, const struct tensors *io,
                       size_t *count)
{
    moecl_layer_weights weights;
    json_int_t tokens, hidden, begin, end;
    char name[64];
    (void)snprintf(name, sizeof name, "layer%zu.x", layer);
    assert_int_equal(json_unpack(json_object_get(io->header, name), "{s:[I,I], s:[I,I]}", "shape", &tokens, &hidden,
                                 "data_offsets", &begin, &end),
                     0);
    ASSERT_OK(context, moecl_model_weights(model, layer, &weights));
    *count = (size_t)(tokens * hidden);
    double *y = make(*count, sizeof *y);
    float *x = make(*count, sizeof *x);
    memcpy(x, io->data + begin, *count * sizeof *x);
    const moecl_reference_call call = {
        .options = options, .weights = &weights, .tokens = (size_t)tokens, .x = x, .y = y};
    assert_int_equal(moecl_reference_forward(&call), MOECL_OK);
    moecl_model_weights_free(&weights);
    free(x);
    return y;
}

static void assert_same_layer(moecl_model *row, moecl_model *described, size_t layer, const struct tensors *io)
{
    moecl_layer_options options[2];
    size_t count;
    ASSERT_OK(context, moecl_model_layer_options(row, layer, &options[0]));
    ASSERT_OK(context, moecl_model_layer_options(described, layer, &options[1]));
    assert_same_options(&options[0], &options[1]);
    double *y[] = {compute(row, layer, &options[0], io, &count), compute(described, layer, &options[1], io, &count)};
    assert_memory_equal(y[0], y[1], count * sizeof(double));
    free(y[0]);
    free(y[1]);
}

static void test_same_as_rows(void **state)
{
    (void)state;
    static const struct {
        const char *description, *folder;
    } cases[] = {
        {"deepseek_v3", "deepseek_v3"}, {"deepseek_v3", "deepseek_v3-nogroup_nonorm"},
        {"gpt_oss", "gpt_oss"},         {"gpt_oss", "gpt_oss-odd"},
        {"dbrx", "dbrx-odd"},           {"dbrx", "dbrx-nonorm"},
        {"step3p7", "step3p7"},         {"gemma4", "gemma4"},
        {"nemotron_h", "nemotron_h"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *directory = scratch_path(MOECL_TEST_DATA "/golden", cases[i].folder);
        char *description = scratch_path(DESCRIPTIONS, cases[i].description);
        struct tensors io = tensors_read(directory, "io.safetensors");
        moecl_model *row, *described;
        moecl_model_info info, other;
        size_t layers = 0;
        print_message("           %s\n", cases[i].folder);
        ASSERT_OK(context, moecl_model_open(context, directory, NULL, &row));
        ASSERT_OK(context, moecl_model_open(context, directory, description, &described));
        moecl_model_describe(row, &info);
        moecl_model_describe(described, &other);
        assert_string_equal(info.family, other.family);
        assert_string_equal(info.model_type, other.model_type);
        assert_int_equal(info.layers, other.layers);
        for (size_t layer = 0; layer < info.layers; layer++) {
            assert_int_equal(moecl_model_is_moe(row, layer), moecl_model_is_moe(described, layer));
            if (moecl_model_is_moe(row, layer)) {
                assert_same_layer(row, described, layer, &io);
                layers++;
            }
        }
        assert_true(layers > 0);
        moecl_model_close(row);
        moecl_model_close(described);
        tensors_free(&io);
        free(description);
        free(directory);
    }
}

/* The decoder's layers of a model of two stacks, where a description asks for them. */
static void test_decoder(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *text, *encoder, *decoder;
    } cases[] = {
        {"nllb_moe", "{\"like\": \"nllb-moe-decoder\"}", "model.encoder.layers.", "model.decoder.layers."},
        {"switch_transformers", "{\"like\": \"switch_transformers-decoder\"}", "encoder.block.0.layer.1.",
         "decoder.block.0.layer.2."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *original = scratch_path(MOECL_TEST_DATA "/golden", cases[i].folder);
        char *directory = checkpoint_copy(original), *path = scratch_path(directory, "family.json");
        struct tensors io = tensors_read(original, "io.safetensors");
        moecl_model *encoder, *decoder;
        scratch_write(directory, "family.json", cases[i].text, strlen(cases[i].text));
        checkpoint_edit(directory, "model.safetensors", cases[i].encoder, cases[i].decoder, true);
        ASSERT_OK(context, moecl_model_open(context, original, NULL, &encoder));
        ASSERT_OK(context, moecl_model_open(context, directory, path, &decoder));
        assert_same_layer(encoder, decoder, 0, &io);
        moecl_model_close(encoder);
        moecl_model_close(decoder);
        tensors_free(&io);
        free(path);
        free(original);
        scratch_remove(directory);
    }
}

/* A model that no row knows, with one member of a row's changed. */
static void test_unknown_model(void **state)
{
    (void)state;
    static const char text[] = "{\"like\": \"mixtral\", \"model_types\": \"novel\","
                               " \"needs\": {\"top_k\": \"experts_a_token\"}, \"options\": {\"router.scale\": 3}}";
    char *directory = checkpoint_copy(MOECL_TEST_DATA "/golden/mixtral");
    char *path = scratch_path(directory, "family.json");
    moecl_model *model;
    moecl_model_info info;
    moecl_layer_options options;
    scratch_write(directory, "family.json", text, sizeof text - 1);
    checkpoint_edit(directory, "config.json", "\"mixtral\"", "\"unheard_of\"", false);
    checkpoint_edit(directory, "config.json", "\"num_experts_per_tok\"", "\"experts_a_token\"", false);
    assert_int_equal(moecl_model_open(context, directory, NULL, &model), MOECL_UNKNOWN_MODEL);
    ASSERT_OK(context, moecl_model_open(context, directory, path, &model));
    moecl_model_describe(model, &info);
    assert_string_equal(info.family, "novel");
    assert_string_equal(info.model_type, "unheard_of");
    ASSERT_OK(context, moecl_model_layer_options(model, 0, &options));
    assert_int_equal(options.top_k, 2);
    assert_int_equal(options.router.normalisation, MOECL_NORMALISATION_SUM);
    assert_true(options.router.scale == 3.0F);
    moecl_model_close(model);
    free(path);
    scratch_remove(directory);
}

/* ------------------------------------------------------------------------------------------- what is refused -- */

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "invalid JSON"},
        {"[]", "expected an object"},
        {"{}", "\"model_types\": it is missing"},
        {"{\"model_types\": \"x\"}", "\"router\" or \"down\" is missing"},
        {"{\"model_types\": 3}", "\"model_types\": expected a string"},
        {"{\"model_types\": []}", "\"model_types\": expected a string"},
        {"{\"model_types\": [\"a\", 1]}", "\"model_types\": expected a string"},
        {"{\"model_types\": [\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\"]}", "up to six"},
        {"{\"tensor\": {}}", "\"tensor\": there is no such member of a description"},
        {"{\"like\": \"nothing\"}", "\"like\": there is no such family"},
        {"{\"like\": \"doge\"}", "\"like\": there is no such family"},
        {"{\"options\": 3}", "\"options\": expected an object"},
        {"{\"options\": {\"router\": {\"scores\": \"softmax\"}}}", "\"router.scores\": there is no such member"},
        {"{\"options\": {\"router\": {\"score\": \"soft\"}}}", "\"router.score\": there is no choice of this name"},
        {"{\"options\": {\"router\": {\"score\": 1}}}", "\"router.score\": there is no choice of this name"},
        {"{\"options\": {\"router.scale\": \"2\"}}", "\"router.scale\": expected a number"},
        {"{\"options\": {\"router.scale\": 1e300}}", "\"router.scale\": expected a number"},
        {"{\"options\": {\"router.biased\": 1}}", "\"router.biased\": expected a boolean"},
        {"{\"options\": {\"top_k\": -1}}", "\"top_k\": expected a whole number"},
        {"{\"options\": {\"top_k\": 2.5}}", "\"top_k\": expected a whole number"},
        {"{\"options\": {\"a\": {\"b\": {\"c\": {\"d\": 1}}}}}", "expected an object"},
        {"{\"needs\": []}", "\"needs\": expected an object"},
        {"{\"takes\": []}", "\"takes\": expected an object"},
        {"{\"needs\": {\"expert\": \"e\"}}", "\"expert\": there is no such member"},
        {"{\"needs\": {\"experts\": 8}}", "\"experts\": expected a string"},
        {"{\"takes\": {\"router.scale\": {\"keys\": \"k\", \"as\": \"half\"}}}", "no conversion of this name"},
        {"{\"cases\": {}}", "\"cases\": expected a list"},
        {"{\"cases\": [3]}", "\"cases\": expected objects"},
        {"{\"cases\": [{\"key\": \"k\", \"set\": \"dense\"}]}", "each needs one condition"},
        {"{\"cases\": [{\"key\": \"k\", \"is\": 1, \"below\": 2, \"set\": \"dense\"}]}", "each needs one condition"},
        {"{\"cases\": [{\"is\": true, \"set\": \"dense\"}]}", "each needs a \"key\""},
        {"{\"cases\": [{\"key\": \"k\", \"is\": 77, \"set\": \"dense\"}]}", "\"is\": expected a string"},
        {"{\"cases\": [{\"key\": \"k\", \"is\": [], \"set\": \"dense\"}]}", "\"is\": expected a string"},
        {"{\"cases\": [{\"key\": \"k\", \"is\": true, \"set\": \"router.scale\"}]}",
         "\"router.scale\": expected a number"},
        {"{\"cases\": [{\"key\": \"k\", \"below\": true, \"otherwise\": -1, \"set\": \"dense\"}]}",
         "\"otherwise\": expected a whole number"},
        {"{\"tensors\": []}", "\"tensors\": expected an object"},
        {"{\"tensors\": {\"gates\": \"g\"}}", "\"gates\": there is no such tensor"},
        {"{\"tensors\": {\"gate\": {\"transposed\": true}}}", "\"gate\": expected a string"},
        {"{\"fixed_activation\": \"yes\"}", "\"fixed_activation\": expected a boolean"},
    };
    char *directory = scratch_make();
    char *path = scratch_path(directory, "family.json");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        moecl_model *model = NULL;
        scratch_write(directory, "family.json", cases[i].text, strlen(cases[i].text));
        const moecl_status status = moecl_model_open(context, MOECL_TEST_DATA "/golden/mixtral", path, &model);
        const char *sentence = moecl_context_error(context);
        if (status != MOECL_BAD_FILE || !strstr(sentence, cases[i].sentence) || !strstr(sentence, "family.json"))
            fail_msg("%s: %s: \"%s\"", cases[i].text, moecl_status_name(status), sentence);
        assert_null(model);
    }
    free(path);
    scratch_remove(directory);
    moecl_model *model = NULL;
    assert_int_equal(moecl_model_open(context, MOECL_TEST_DATA "/golden/mixtral", "/nowhere/family.json", &model),
                     MOECL_FILE_ERROR);
}

static void test_too_many(void **state)
{
    (void)state;
    char *text = make(8192, 1), *directory = scratch_make(), *path = scratch_path(directory, "family.json");
    strcpy(text, "{\"like\": \"mixtral\", \"cases\": [");
    for (size_t i = 0; i < MOECL_FAMILY_CASES; i++)
        (void)snprintf(text + strlen(text), 8192 - strlen(text), "%s{\"always\": true, \"set\": \"nothing\"}",
                       i > 0 ? "," : "");
    strcat(text, "]}");
    scratch_write(directory, "family.json", text, strlen(text));
    moecl_model *model = NULL;
    assert_int_equal(moecl_model_open(context, MOECL_TEST_DATA "/golden/mixtral", path, &model), MOECL_BAD_FILE);
    assert_non_null(strstr(moecl_context_error(context), "too many"));
    free(path);
    free(text);
    scratch_remove(directory);
}

/* Each allocation fails once. */
static void test_out_of_memory(void **state)
{
    (void)state;
    size_t n = 0;
    do {
        moecl_context *own;
        moecl_model *model = NULL;
        assert_int_equal(moecl_context_create(&own), MOECL_OK);
        interception_start(++n);
        const moecl_status status =
            moecl_model_open(own, MOECL_TEST_DATA "/golden/deepseek_v3", DESCRIPTIONS "deepseek_v3", &model);
        interception_stop();
        assert_int_equal(status, interception.failed ? MOECL_OUT_OF_HOST_MEMORY : MOECL_OK);
        if (!interception.failed)
            moecl_model_close(model);
        else
            assert_int_equal(interception.memory, 0);
        moecl_context_destroy(own);
    } while (interception.failed);
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_rows), cmocka_unit_test(test_decoder),  cmocka_unit_test(test_unknown_model),
        cmocka_unit_test(test_refuses),      cmocka_unit_test(test_too_many), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests_name("description", tests, make_context, destroy_context);
}
