/* SPDX-License-Identifier: Apache-2.0 */
/* source.c - numbers of a config.json for members. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "json.h"
#include "reader.h"

static const struct {
    const char *name;
    moecl_activation activation;
} activations[] = {
    {"silu", MOECL_ACTIVATION_SILU},
    {"swish", MOECL_ACTIVATION_SILU},
    {"gelu", MOECL_ACTIVATION_GELU},
    {"gelu_new", MOECL_ACTIVATION_GELU_TANH},
    {"gelu_pytorch_tanh", MOECL_ACTIVATION_GELU_TANH},
    {"relu", MOECL_ACTIVATION_RELU},
    {"relu2", MOECL_ACTIVATION_RELU_SQUARED},
    {"linear", MOECL_ACTIVATION_IDENTITY},
};
enum { ACTIVATIONS = sizeof activations / sizeof activations[0] };

/* Activations have names of their own in config.json; other choices go by the library's. */
static moecl_status read_choice(const struct moecl_reader *reader, const struct moecl_member *member, const char *key,
                                const json_t *value, double *number)
{
    const char *name = json_string_value(value);
    if (!name)
        return moecl_value_wrong_kind(reader, key, value, "a string");
    for (size_t i = 0; member->choice == MOECL_CHOICE_ACTIVATION && i < ACTIVATIONS; i++)
        if (strcmp(name, activations[i].name) == 0) {
            *number = activations[i].activation;
            return MOECL_OK;
        }
    *number = moecl_choice_named(member->choice, name);
    if (*number >= 0)
        return MOECL_OK;
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED, "%s: the value \"%s\" of \"%s\" is not supported",
                           reader->path, QUOTE(name), key);
}

static moecl_status read_real(const struct moecl_reader *reader, const char *key, const json_t *value, double *number)
{
    if (!json_is_number(value))
        return moecl_value_wrong_kind(reader, key, value, "a number");
    *number = json_number_value(value);
    if (!(*number >= 0.0 && *number <= (double)FLT_MAX))
        return moecl_error_set(reader->error, MOECL_BAD_FILE,
                               "%s: \"%s\" is %g, expected a number that is not negative", reader->path, key, *number);
    return MOECL_OK;
}

static moecl_status convert(const struct moecl_reader *reader, enum moecl_conversion conversion, const char *key,
                            double *number)
{
    if (conversion == MOECL_ONE_MINUS)
        *number = 1.0 - *number;
    if (conversion == MOECL_INVERSE_ROOT)
        *number = 1.0 / sqrt(*number);
    if (isfinite(*number) && *number >= 0.0)
        return MOECL_OK;
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is out of range", reader->path, key);
}

/* The number that `value` says for the member. */
static moecl_status read_number(const struct moecl_reader *reader, const struct moecl_source *source, const char *key,
                                const json_t *value, double *number)
{
    const struct moecl_member *member = moecl_member_at(source->member);
    moecl_status status = MOECL_OK;
    size_t size = 0;

    if (member->kind == MOECL_MEMBER_CHOICE) {
        TRY(read_choice(reader, member, key, value, number));
    } else if (member->kind == MOECL_MEMBER_FLAG) {
        if (!json_is_boolean(value))
            TRY(moecl_value_wrong_kind(reader, key, value, "a boolean"));
        *number = json_is_true(value) ? 1.0 : 0.0;
    } else if (member->kind == MOECL_MEMBER_REAL) {
        TRY(read_real(reader, key, value, number));
        TRY(convert(reader, source->conversion, key, number));
    } else {
        const size_t minimum = source->needed ? 1 : 0;
        TRY(moecl_value_size(reader, key, value, minimum, (size_t)MOECL_LARGEST_SIZE, &size));
        *number = (double)size;
    }
out:
    return status;
}

moecl_status moecl_source_apply(const struct moecl_reader *reader, const struct moecl_source *source,
                                struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    double number = 0.0;

    TRY(moecl_value_find_for_layer(reader, source->keys, &key, &value));
    if (!value && source->needed)
        TRY(moecl_value_missing(reader, source->keys));
    if (!value)
        goto out;
    TRY(read_number(reader, source, key, value, &number));
    moecl_member_set(moecl_member_at(source->member), reading, number);
out:
    return status;
}

#define USUAL(path, ...)                                                                                               \
    {                                                                                                                  \
        .member = offsetof(struct moecl_reading, options.path), .keys = { __VA_ARGS__ }                                \
    }
static const struct moecl_source usual_sources[] = {
    USUAL(hidden, "hidden_size"),
    USUAL(experts, "num_experts", "num_local_experts", "n_routed_experts"),
    USUAL(top_k, "num_experts_per_tok"),
    USUAL(intermediate, "moe_intermediate_size"),
    USUAL(function.activation, "hidden_act"),
};
enum { USUAL_SOURCES = sizeof usual_sources / sizeof usual_sources[0] };

static bool has_source(const struct moecl_family *family, size_t member)
{
    for (size_t i = 0; i < MOECL_FAMILY_SOURCES && family->sources[i].keys[0]; i++)
        if (family->sources[i].member == member)
            return true;
    return false;
}

moecl_status moecl_sources_apply_usual(const struct moecl_reader *reader, struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < USUAL_SOURCES; i++) {
        struct moecl_source source = usual_sources[i];
        const struct moecl_member *member = moecl_member_at(source.member);
        const bool size = member->kind == MOECL_MEMBER_SIZE;
        if (has_source(reader->family, source.member) || (size && moecl_member_get(member, reading) > 0) ||
            (!size && reader->family->fixed_activation))
            continue;
        source.needed = size;
        TRY(moecl_source_apply(reader, &source, reading));
    }
out:
    return status;
}

moecl_status moecl_sources_check(const struct moecl_reader *reader, const struct moecl_reading *reading)
{
    for (size_t i = 0; i < USUAL_SOURCES; i++) {
        const struct moecl_member *member = moecl_member_at(usual_sources[i].member);
        if (member->kind == MOECL_MEMBER_SIZE && moecl_member_get(member, reading) < 1)
            return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: the family %s finds no number for \"%s\"",
                                   reader->path, reader->family->model_types[0], member->name);
    }
    return MOECL_OK;
}
