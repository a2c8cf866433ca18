/* SPDX-License-Identifier: Apache-2.0 */
/* test_mutation.c - checkpoints with seeded damage: whatever a file says, the reader answers with a documented status
 * and a sentence, and weights it hands out can be read to the last byte.
 *
 * In the environment: MOECL_MUTATIONS, how many (2000); MOECL_SEED, the first one's seed (1). */
#include "check.h"

#include <moecl/model.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"
#include "random.h"
#include "scratch.h"

/* ------------------------------------------------------------------------------------------------ mutations -- */

struct text {
    char *bytes;
    size_t size;
    size_t header; /* the JSON is in bytes[header] to bytes[json_end - 1] */
    size_t json_end;
};

static const uint64_t telling_numbers[] = {
    0,    1,     2,          7,          31,        32,         64,         1024,
    1025, 65535, 1ULL << 31, 1ULL << 32, INT64_MAX, 1ULL << 63, UINT64_MAX, UINT64_MAX - 7};

static uint64_t telling_number(uint64_t *seed)
{
    return telling_numbers[random_between(seed, 0, sizeof telling_numbers / sizeof telling_numbers[0] - 1)];
}

/* Puts `length` bytes in place of bytes[at] to bytes[at + old - 1], all of them in the JSON. */
static void splice(struct text *text, size_t at, size_t old, const char *with, size_t length)
{
    char *spliced = malloc(text->size - old + length + 1);
    assert_non_null(spliced);
    memcpy(spliced, text->bytes, at);
    memcpy(spliced + at, with, length);
    memcpy(spliced + at + length, text->bytes + at + old, text->size - at - old);
    free(text->bytes);
    text->bytes = spliced;
    text->size += length - old;
    text->json_end += length - old;
}

/* A place in the JSON where a run of characters of the kind begins; `*length` is how many. */
static size_t find_run(const struct text *text, uint64_t *seed, int (*kind)(int), size_t *length)
{
    size_t at = random_between(seed, text->header, text->json_end);
    while (at < text->json_end && !kind((unsigned char)text->bytes[at]))
        at++;
    for (*length = 0; at + *length < text->json_end && kind((unsigned char)text->bytes[at + *length]);)
        ++*length;
    return at;
}

static void mutate_byte(struct text *text, uint64_t *seed)
{
    if (text->json_end > text->header)
        text->bytes[random_between(seed, text->header, text->json_end - 1)] = (char)random_between(seed, 0, 255);
}

static void mutate_any_byte(struct text *text, uint64_t *seed)
{
    if (text->size > 0)
        text->bytes[random_between(seed, 0, text->size - 1)] ^= (char)(1U << random_between(seed, 0, 7));
}

static void mutate_punctuation(struct text *text, uint64_t *seed)
{
    static const char marks[] = "{}[]\",:-.e\\";
    size_t length, at = find_run(text, seed, ispunct, &length);
    if (length > 0)
        splice(text, at, 1, &marks[random_between(seed, 0, sizeof marks - 2)], 1);
}

static void mutate_number(struct text *text, uint64_t *seed)
{
    char number[32];
    size_t length, at = find_run(text, seed, isdigit, &length);
    (void)snprintf(number, sizeof number, "%s%llu", random_between(seed, 0, 9) == 0 ? "-" : "",
                   (unsigned long long)telling_number(seed));
    splice(text, at, length, number, strlen(number));
}

/* A word of the JSON in place of another: keys, dtypes, pieces of names. */
static void mutate_word(struct text *text, uint64_t *seed)
{
    char word[64];
    size_t length, other_length, at = find_run(text, seed, isalnum, &length);
    size_t other = find_run(text, seed, isalnum, &other_length);
    if (other_length > sizeof word)
        other_length = sizeof word;
    memcpy(word, text->bytes + other, other_length);
    splice(text, at, length, word, other_length);
}

static void mutate_span(struct text *text, uint64_t *seed)
{
    char span[200];
    size_t at = random_between(seed, text->header, text->json_end), from = random_between(seed, text->header, at);
    size_t length = random_between(seed, 0, at - from < sizeof span ? at - from : sizeof span);
    memcpy(span, text->bytes + from, length);
    if (random_between(seed, 0, 1) == 0)
        splice(text, at, 0, span, length);
    else
        splice(text, from, length, "", 0);
}

static void mutate_size(struct text *text, uint64_t *seed)
{
    static const char zeros[64] = "";
    size_t json_end = text->json_end;
    if (random_between(seed, 0, 1) == 0)
        text->size = random_between(seed, 0, text->size);
    else
        splice(text, text->size, 0, zeros, random_between(seed, 1, sizeof zeros));
    text->json_end = json_end < text->size ? json_end : text->size;
    text->header = text->header < text->json_end ? text->header : text->json_end;
}

static void (*const mutations[])(struct text *, uint64_t *) = {
    mutate_byte, mutate_any_byte, mutate_punctuation, mutate_number, mutate_number,
    mutate_word, mutate_word,     mutate_span,        mutate_size,
};
enum { MUTATIONS = sizeof mutations / sizeof mutations[0] };

/* Sets the header's length of a safetensors file: to what it is now, mostly. */
static void set_header_length(struct text *text, uint64_t *seed)
{
    uint64_t length = text->json_end - text->header;
    if (random_between(seed, 0, 9) == 0)
        length = telling_number(seed);
    if (text->header == sizeof length)
        memcpy(text->bytes, &length, sizeof length);
}

static void mutate(struct text *text, uint64_t *seed)
{
    for (size_t i = random_between(seed, 1, 3); i > 0; i--)
        mutations[random_between(seed, 0, MUTATIONS - 1)](text, seed);
    set_header_length(text, seed);
}

/* ---------------------------------------------------------------------------------------------- checkpoints -- */

/* A scratch copy of a checkpoint: its files, one of which is mutated at a time. */
struct victim {
    char *directory;
    size_t file_count;
    const char *names[4];
};

static struct victim victim_make(const char *original, size_t shards)
{
    struct victim victim = {checkpoint_copy(original), 2, {"config.json", "model.safetensors"}};
    if (shards == 2) {
        checkpoint_split(victim.directory, 2);
        victim = (struct victim){victim.directory,
                                 4,
                                 {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                  "model.safetensors.index.json"}};
    }
    return victim;
}

static struct text text_read(const char *directory, const char *name)
{
    struct text text = {0};
    text.bytes = scratch_read(directory, name, &text.size);
    text.json_end = text.size;
    if (!strstr(name, ".json")) {
        uint64_t length;
        memcpy(&length, text.bytes, sizeof length);
        text.header = sizeof length;
        text.json_end = sizeof length + (size_t)length;
    }
    return text;
}

/* The sum keeps the reads from being optimised away. */
static unsigned read_matrix(const moecl_matrix *matrix)
{
    const unsigned char *bytes = matrix->data;
    const size_t row_stride = matrix->column_stride ? matrix->row_stride : matrix->columns;
    const size_t column_stride = matrix->column_stride ? matrix->column_stride : 1;
    unsigned sum = 0;
    for (size_t r = 0; bytes && r < matrix->rows; r++)
        for (size_t c = 0; c < matrix->columns; c++)
            sum += bytes[(r * row_stride + c * column_stride + 1) * moecl_type_size(matrix->type) - 1];
    return sum;
}

static unsigned read_expert(const moecl_expert_weights *expert)
{
    return read_matrix(&expert->gate) + read_matrix(&expert->up) + read_matrix(&expert->down) +
           read_matrix(&expert->gate_bias) + read_matrix(&expert->up_bias) + read_matrix(&expert->down_bias);
}

static moecl_status read_layer(moecl_model *model, size_t layer)
{
    moecl_layer_options options;
    moecl_layer_weights weights;
    volatile unsigned sum;
    moecl_status status = moecl_model_layer_options(model, layer, &options);
    if (status != MOECL_OK)
        return status;
    assert_int_equal(moecl_model_weights(model, layer, &weights), MOECL_OK);
    sum = read_matrix(&weights.router) + read_expert(&weights.shared) + read_matrix(&weights.shared_gate) +
          read_matrix(&weights.latent_down) + read_matrix(&weights.latent_up);
    for (size_t i = 0; i < MOECL_VECTOR_COUNT; i++)
        sum += read_matrix(&weights.vectors[i]);
    for (size_t i = 0; weights.table && i < options.router.table_rows * options.top_k; i++)
        assert_in_range(weights.table[i], 0, options.experts + options.router.zero_experts - 1);
    for (size_t expert = 0; expert < options.experts; expert++)
        sum += read_expert(&weights.experts[expert]);
    (void)sum;
    moecl_model_weights_free(&weights);
    return status;
}

/* Everything that reads, to the first failure. */
static moecl_status read_all(moecl_context *context, const char *directory)
{
    moecl_model *model;
    moecl_model_info info;
    moecl_status status = moecl_model_open(context, directory, NULL, &model);
    if (status != MOECL_OK)
        return status;
    moecl_model_describe(model, &info);
    assert_in_range(info.layers, 1, 4096);
    for (size_t layer = 0; layer < info.layers && status == MOECL_OK; layer++)
        if (moecl_model_is_moe(model, layer))
            status = read_layer(model, layer);
    moecl_model_close(model);
    return status;
}

static bool is_documented(moecl_status status)
{
    return status == MOECL_OK || status == MOECL_FILE_ERROR || status == MOECL_BAD_FILE ||
           status == MOECL_UNKNOWN_MODEL || status == MOECL_UNSUPPORTED || status == MOECL_INVALID_ARGUMENT;
}

static void mutate_and_read(moecl_context *context, const struct victim *victim, uint64_t seed, size_t *outcomes)
{
    const uint64_t first_seed = seed;
    const char *name = victim->names[random_between(&seed, 0, victim->file_count - 1)];
    struct text original = text_read(victim->directory, name), mutated = text_read(victim->directory, name);

    mutate(&mutated, &seed);
    scratch_write(victim->directory, name, mutated.bytes, mutated.size);
    (void)alarm(60); /* a hang is a failure */
    moecl_status status = read_all(context, victim->directory);
    (void)alarm(0);
    if (!is_documented(status) || (status != MOECL_OK && moecl_context_error(context)[0] == '\0'))
        fail_msg("MOECL_SEED=%llu: %s: \"%s\"", (unsigned long long)first_seed, moecl_status_name(status),
                 moecl_context_error(context));
    outcomes[status]++;
    scratch_write(victim->directory, name, original.bytes, original.size);
    free(original.bytes);
    free(mutated.bytes);
}

static void test_mutations(void **state)
{
    (void)state;
    static const struct {
        const char *directory;
        size_t shards;
    } originals[] = {
        {"mixtral-bf16", 1},     {"olmoe", 1},       {"qwen2_moe", 1},
        {"qwen3_moe", 1},        {"qwen2_moe", 2},   {"mixtral", 2},
        {"gpt_oss", 1},          {"deepseek_v4", 1}, {"step3p7", 1},
        {"granitemoeshared", 1}, {"dbrx", 1},        {"nemotron_h-latent", 2},
        {"jetmoe", 1},           {"gemma4", 1},      {"nllb_moe", 1},
    };
    enum { ORIGINALS = sizeof originals / sizeof originals[0] };
    struct victim victims[ORIGINALS];
    size_t outcomes[MOECL_UNKNOWN_MODEL + 1] = {0};
    const size_t count = number_from_environment("MOECL_MUTATIONS", 2000);
    const uint64_t seed = number_from_environment("MOECL_SEED", 1);
    moecl_context *context;

    print_message("%zu mutations from MOECL_SEED=%llu on\n", count, (unsigned long long)seed);
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    for (size_t i = 0; i < ORIGINALS; i++) {
        char *directory = scratch_path(MOECL_TEST_DATA "/golden", originals[i].directory);
        victims[i] = victim_make(directory, originals[i].shards);
        assert_int_equal(read_all(context, victims[i].directory), MOECL_OK);
        free(directory);
    }
    for (size_t i = 0; i < count; i++)
        mutate_and_read(context, &victims[(seed + i) % ORIGINALS], seed + i, outcomes);
    for (size_t i = 0; i < ORIGINALS; i++) {
        assert_int_equal(read_all(context, victims[i].directory), MOECL_OK); /* nothing is left of the damage */
        scratch_remove(victims[i].directory);
    }
    for (size_t status = 0; status <= MOECL_UNKNOWN_MODEL; status++)
        if (outcomes[status] > 0)
            print_message("%6zu %s\n", outcomes[status], moecl_status_name((moecl_status)status));
    /* damage of both kinds: that matters, and that does not */
    assert_true(count < 100 || (outcomes[MOECL_OK] > 0 && outcomes[MOECL_BAD_FILE] > 0));
    moecl_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests_name("mutation", tests, NULL, NULL);
}
