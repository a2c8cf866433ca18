/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - how a family reads a config.json. */
#include "config.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"

/* Bounds for what no model has: they keep loops over layers and products of sizes harmless. */
static const size_t most_layers = 4096;
static const size_t largest_size = INT32_MAX;

struct reader {
    struct moecl_error *error;
    const char *path;
    const json_t *root; /* the numbers of the language model: the config's "text_config" where it has one */
    const struct moecl_family *family;
    size_t layer; /* whose entry is taken out of lists */
};

/* ------------------------------------------------------------------------------------------ keys and values -- */

static moecl_status wrong_kind(const struct reader *reader, const char *key, const json_t *value, const char *expected)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is %s, expected %s", reader->path, key,
                           moecl_json_kind(value), expected);
}

/* The value at a path of keys, "a.b", or of a key that is spelled so; NULL where there is none. */
static const json_t *at_path(const json_t *object, const char *path)
{
    char key[64];
    const json_t *whole = json_object_get(object, path);
    if (whole)
        return whole;
    for (const char *dot; (dot = strchr(path, '.')); path = dot + 1) {
        (void)snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        object = json_object_get(object, key);
    }
    return json_object_get(object, path);
}

/* The value under any spelling of a key, with the spelling in use; NULL where there is none. null counts as absent, and
 * two spellings that disagree are an error. */
static moecl_status find_value(const struct reader *reader, const moecl_spellings keys, const char **key,
                               const json_t **value)
{
    *key = keys[0];
    *value = NULL;
    for (size_t i = 0; keys[i]; i++) {
        const json_t *found = at_path(reader->root, keys[i]);
        if (!found || json_is_null(found))
            continue;
        if (*value && !json_equal(*value, found))
            return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" and \"%s\" mean the same and differ",
                                   reader->path, *key, keys[i]);
        *key = keys[i];
        *value = found;
    }
    return MOECL_OK;
}

/* As find_value(), but a list's entry for the layer. */
static moecl_status find_layer_value(const struct reader *reader, const moecl_spellings keys, const char **key,
                                     const json_t **value)
{
    moecl_status status = MOECL_OK;
    TRY(find_value(reader, keys, key, value));
    if (json_is_array(*value)) {
        const json_t *entry = json_array_get(*value, reader->layer);
        if (!entry)
            FAIL(reader->error, MOECL_BAD_FILE, "%s: the list \"%s\" has no entry for layer %zu", reader->path, *key,
                 reader->layer);
        *value = json_is_null(entry) ? NULL : entry;
    }
out:
    return status;
}

static moecl_status check_size(const struct reader *reader, const char *key, const json_t *value, size_t minimum,
                               size_t maximum, size_t *size)
{
    if (!json_is_integer(value))
        return wrong_kind(reader, key, value, "an integer");
    const json_int_t number = json_integer_value(value);
    if (number < (json_int_t)minimum || (uintmax_t)number > maximum)
        return moecl_error_set(reader->error, MOECL_BAD_FILE,
                               "%s: \"%s\" is %" JSON_INTEGER_FORMAT ", expected %zu to %zu", reader->path, key, number,
                               minimum, maximum);
    *size = (size_t)number;
    return MOECL_OK;
}

/* -------------------------------------------------------------------------------------------------- sources -- */

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
static moecl_status read_choice(const struct reader *reader, const struct moecl_member *member, const char *key,
                                const json_t *value, double *number)
{
    const char *name = json_string_value(value);
    if (!name)
        return wrong_kind(reader, key, value, "a string");
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

static moecl_status read_real(const struct reader *reader, const char *key, const json_t *value, double *number)
{
    if (!json_is_number(value))
        return wrong_kind(reader, key, value, "a number");
    *number = json_number_value(value);
    if (!(*number >= 0.0 && *number <= (double)FLT_MAX))
        return moecl_error_set(reader->error, MOECL_BAD_FILE,
                               "%s: \"%s\" is %g, expected a number that is not negative", reader->path, key, *number);
    return MOECL_OK;
}

static moecl_status convert(const struct reader *reader, enum moecl_conversion conversion, const char *key,
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
static moecl_status read_number(const struct reader *reader, const struct moecl_source *source, const char *key,
                                const json_t *value, double *number)
{
    const struct moecl_member *member = moecl_member_at(source->member);
    moecl_status status = MOECL_OK;
    size_t size = 0;

    if (member->kind == MOECL_MEMBER_CHOICE) {
        TRY(read_choice(reader, member, key, value, number));
    } else if (member->kind == MOECL_MEMBER_FLAG) {
        if (!json_is_boolean(value))
            TRY(wrong_kind(reader, key, value, "a boolean"));
        *number = json_is_true(value) ? 1.0 : 0.0;
    } else if (member->kind == MOECL_MEMBER_REAL) {
        TRY(read_real(reader, key, value, number));
        TRY(convert(reader, source->conversion, key, number));
    } else {
        const size_t minimum = source->needed ? 1 : 0;
        TRY(check_size(reader, key, value, minimum, largest_size, &size));
        *number = (double)size;
    }
out:
    return status;
}

static moecl_status missing(const struct reader *reader, const moecl_spellings keys)
{
    moecl_status status =
        moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is missing", reader->path, keys[0]);
    for (size_t i = 1; keys[i]; i++)
        status = moecl_error_append(reader->error, status, "%s\"%s\"%s", i == 1 ? " (also spelled " : ", ", keys[i],
                                    keys[i + 1] ? "" : ")");
    return status;
}

static moecl_status apply_source(const struct reader *reader, const struct moecl_source *source,
                                 struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    double number = 0.0;

    TRY(find_layer_value(reader, source->keys, &key, &value));
    if (!value && source->needed)
        TRY(missing(reader, source->keys));
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

/* Sizes without which there is no layer are needed, unless the row has them. */
static moecl_status apply_usual_sources(const struct reader *reader, struct moecl_reading *reading)
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
        TRY(apply_source(reader, &source, reading));
    }
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------------- cases -- */

/* A value as cases spell it; "" for what has no such text. */
static void as_text(const json_t *value, char *text, size_t size)
{
    text[0] = '\0';
    if (json_is_string(value))
        (void)snprintf(text, size, "%s", json_string_value(value));
    else if (json_is_integer(value))
        (void)snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_boolean(value))
        (void)snprintf(text, size, "%s", json_is_true(value) ? "true" : "false");
}

static bool same_keys(const moecl_spellings a, const moecl_spellings b)
{
    return a[0] && b[0] && strcmp(a[0], b[0]) == 0;
}

/* Whether a case's value stands for a boolean, for a word. */
static bool is_boolean(const char *value)
{
    return strcmp(value, "true") == 0 || strcmp(value, "false") == 0;
}

static bool is_word(const char *value)
{
    return !is_boolean(value) && strcmp(value, "null") != 0 && strspn(value, "0123456789") != strlen(value);
}

/* Whether a value that a case compares is one that the row knows: a boolean where all cases of its key mean one, a word
 * where one does, and then a word that one names. */
static moecl_status check_word(const struct reader *reader, const struct moecl_case *item, const char *key,
                               const json_t *value, const char *text)
{
    bool booleans = true, words = false, known = item->condition == MOECL_IS_NOT;
    for (const struct moecl_case *other = reader->family->cases; !moecl_case_is_end(other); other++) {
        if (!same_keys(other->keys, item->keys) || !other->value)
            continue;
        booleans = booleans && is_boolean(other->value);
        words = words || is_word(other->value);
        known = known || strcmp(other->value, text) == 0;
    }
    if (booleans && !json_is_boolean(value))
        return wrong_kind(reader, key, value, "a boolean");
    if (words && !json_is_string(value))
        return wrong_kind(reader, key, value, "a string");
    if (known || !json_is_string(value))
        return MOECL_OK;
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED, "%s: the value \"%s\" of \"%s\" is not supported",
                           reader->path, QUOTE(text), key);
}

/* IS and IS_NOT. */
static moecl_status compare(const struct reader *reader, const struct moecl_case *item, bool *holds)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    char text[64];
    bool same = item->or_absent;

    TRY(find_layer_value(reader, item->keys, &key, &value));
    if (value) {
        as_text(value, text, sizeof text);
        TRY(check_word(reader, item, key, value, text));
        same = strcmp(text, item->value) == 0;
    } else if (strcmp(item->value, "null") == 0) {
        for (size_t i = 0; item->keys[i]; i++)
            same = same || json_is_null(at_path(reader->root, item->keys[i]));
    }
    *holds = same == (item->condition == MOECL_IS);
out:
    return status;
}

/* Whether a list of numbers, or a text "3,4,5", has the layer's. */
static moecl_status look_up(const struct reader *reader, const char *key, const json_t *value, bool *listed)
{
    moecl_status status = MOECL_OK;
    size_t i;
    const json_t *entry;

    *listed = false;
    if (json_is_string(value)) {
        for (const char *text = json_string_value(value); *text != '\0';) {
            size_t number = 0, digits = strspn(text, "0123456789");
            for (size_t at = 0; at < digits && number < most_layers; at++)
                number = number * 10 + (size_t)(text[at] - '0');
            if (digits == 0 || (text[digits] != '\0' && text[digits] != ','))
                FAIL(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is no list of layers", reader->path, key);
            *listed = *listed || number == reader->layer;
            text += digits + (text[digits] == ',');
        }
        return MOECL_OK;
    }
    if (!json_is_array(value))
        TRY(wrong_kind(reader, key, value, "an array"));
    json_array_foreach((json_t *)(uintptr_t)value, i, entry)
    {
        const json_int_t layer = json_integer_value(entry);
        if (!json_is_integer(entry) || layer < 0)
            FAIL(reader->error, MOECL_BAD_FILE, "%s: entry %zu of \"%s\" is no layer's number", reader->path, i, key);
        *listed = *listed || (uintmax_t)layer == reader->layer;
    }
out:
    return status;
}

static moecl_status read_phase(const struct reader *reader, const struct moecl_case *item, size_t step, size_t *phase)
{
    const moecl_spellings keys = {item->phase_key};
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value = NULL;

    *phase = item->phase < 0 ? step - 1 : (size_t)item->phase % step;
    if (item->phase_key)
        TRY(find_value(reader, keys, &key, &value));
    if (value) {
        TRY(check_size(reader, key, value, 0, largest_size, phase));
        *phase %= step;
    }
out:
    return status;
}

static moecl_status has_other_letter(const struct reader *reader, const struct moecl_case *item, const char *key,
                                     const json_t *value, bool *holds)
{
    const char *letters = json_string_value(value);
    if (!letters)
        return wrong_kind(reader, key, value, "a string");
    if (reader->layer >= strlen(letters))
        return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" has no letter for layer %zu", reader->path,
                               key, reader->layer);
    *holds = letters[reader->layer] != item->value[0];
    return MOECL_OK;
}

/* The conditions on a layer's number. */
static moecl_status check_layer(const struct reader *reader, const struct moecl_case *item, bool *holds)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    size_t number = item->otherwise, phase;
    bool listed;

    TRY(find_value(reader, item->keys, &key, &value));
    if (item->condition == MOECL_LISTED || item->condition == MOECL_UNLISTED) {
        if (!value)
            goto out;
        TRY(look_up(reader, key, value, &listed));
        *holds = listed == (item->condition == MOECL_LISTED);
    } else if (item->condition == MOECL_LETTER_NOT) {
        if (value)
            TRY(has_other_letter(reader, item, key, value, holds));
    } else if (item->condition == MOECL_ABOVE) {
        if (value && !json_is_integer(value))
            TRY(wrong_kind(reader, key, value, "an integer"));
        *holds = value && json_integer_value(value) >= 0 && reader->layer > (uintmax_t)json_integer_value(value);
    } else {
        const bool step = item->condition == MOECL_OFF_STEP;
        if (value)
            TRY(check_size(reader, key, value, step ? 1 : 0, largest_size, &number));
        if (!step) {
            *holds = reader->layer < number;
        } else if (number > 0) {
            TRY(read_phase(reader, item, number, &phase));
            *holds = reader->layer % number != phase;
        }
    }
out:
    return status;
}

static moecl_status apply_case(const struct reader *reader, const struct moecl_case *item,
                               struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    const json_t *other = item->unless ? at_path(reader->root, item->unless) : NULL;
    bool holds = false;

    if (other && !json_is_null(other))
        return MOECL_OK;
    if (item->condition == MOECL_ALWAYS)
        holds = true;
    else if (item->condition == MOECL_IS || item->condition == MOECL_IS_NOT)
        TRY(compare(reader, item, &holds));
    else
        TRY(check_layer(reader, item, &holds));
    if (holds)
        moecl_member_set(moecl_member_at(item->member), reading, item->to);
    if (holds && item->member == offsetof(struct moecl_reading, unsupported))
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: \"%s\": %s is not supported", reader->path, item->keys[0],
             item->value ? item->value : "this");
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------- one layer -- */

static bool is_of_shared_function(size_t member)
{
    const size_t begin = offsetof(struct moecl_reading, options.shared_function);
    return member >= begin && member < begin + sizeof(moecl_expert_function);
}

static moecl_status apply_row(const struct reader *reader, bool shared, struct moecl_reading *reading)
{
    const struct moecl_family *family = reader->family;
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < MOECL_FAMILY_SOURCES && family->sources[i].keys[0]; i++)
        if (is_of_shared_function(family->sources[i].member) == shared &&
            family->sources[i].member != offsetof(struct moecl_reading, layers))
            TRY(apply_source(reader, &family->sources[i], reading));
    if (!shared)
        TRY(apply_usual_sources(reader, reading));
    for (const struct moecl_case *item = family->cases; !moecl_case_is_end(item); item++)
        if (is_of_shared_function(item->member) == shared && item->member != offsetof(struct moecl_reading, dense))
            TRY(apply_case(reader, item, reading));
out:
    return status;
}

/* Of a dense layer nothing else is asked: it may lack all that an MoE layer needs. */
static moecl_status read_dense(const struct reader *reader, struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    for (const struct moecl_case *item = reader->family->cases; !moecl_case_is_end(item); item++)
        if (item->member == offsetof(struct moecl_reading, dense))
            TRY(apply_case(reader, item, reading));
out:
    return status;
}

/* Without these there is no layer, whatever a row says. */
static moecl_status check_sizes(const struct reader *reader, const struct moecl_reading *reading)
{
    for (size_t i = 0; i < USUAL_SOURCES; i++) {
        const struct moecl_member *member = moecl_member_at(usual_sources[i].member);
        if (member->kind == MOECL_MEMBER_SIZE && moecl_member_get(member, reading) < 1)
            return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: the family %s finds no number for \"%s\"",
                                   reader->path, reader->family->model_types[0], member->name);
    }
    return MOECL_OK;
}

/* What is written in several ways gets one: no groups, no clamp, the shared expert's width. */
static void simplify(struct moecl_reading *reading)
{
    moecl_layer_options *options = &reading->options;
    if (options->shared_intermediate == 0 && reading->shared_experts <= largest_size / options->intermediate)
        options->shared_intermediate = reading->shared_experts * options->intermediate;
    if (options->shared_intermediate == 0) {
        options->shared_gate = MOECL_SHARED_GATE_NONE;
        options->shared_function = (moecl_expert_function){0};
        options->shared_scale = 0.0F;
    }
    if (options->router.groups <= 1 && options->router.score != MOECL_SCORE_HIERARCHICAL) {
        options->router.groups = options->router.top_groups = 0;
        options->router.group_score = MOECL_GROUP_SCORE_LARGEST;
        options->router.group_mask = MOECL_GROUP_MASK_INFINITE;
    }
    for (size_t i = 0; i < 2; i++) {
        moecl_expert_function *function = i == 0 ? &options->function : &options->shared_function;
        if (function->limit <= 0.0F)
            function->clamp = MOECL_CLAMP_NONE;
    }
}

static moecl_status check_layer_options(const struct reader *reader, const struct moecl_reading *reading)
{
    const moecl_layer_options *options = &reading->options;
    const moecl_router *router = &options->router;
    const size_t outputs = options->experts + router->zero_experts;
    moecl_status status = MOECL_OK;

    if (options->top_k > outputs)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu experts for each token, of %zu", reader->path, options->top_k,
             outputs);
    if (outputs > MOECL_MAX_EXPERTS || options->top_k > MOECL_MAX_TOP_K)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: %zu experts, %zu for each token: at most %d and %d are supported",
             reader->path, outputs, options->top_k, MOECL_MAX_EXPERTS, MOECL_MAX_TOP_K);
    if (router->groups > 0 &&
        (outputs % router->groups != 0 || router->top_groups < 1 || router->top_groups > router->groups))
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu of %zu groups of experts, of %zu experts", reader->path,
             router->top_groups, router->groups, outputs);
    if (reading->shared_experts > 0 && options->shared_intermediate == 0)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu shared experts of %zu", reader->path, reading->shared_experts,
             options->intermediate);
out:
    return status;
}

static moecl_status read_layer(const struct reader *reader, struct moecl_config_layer *layer)
{
    moecl_status status = MOECL_OK;
    struct moecl_reading reading = reader->family->base;

    TRY(read_dense(reader, &reading));
    layer->moe = !reading.dense;
    if (reading.dense)
        goto out;
    TRY(apply_row(reader, false, &reading));
    reading.options.shared_function = reading.options.function;
    reading.options.shared_function.biased = false;
    TRY(apply_row(reader, true, &reading));
    TRY(check_sizes(reader, &reading));
    simplify(&reading);
    TRY(check_layer_options(reader, &reading));
    layer->options = reading.options;
out:
    return status;
}

/* ----------------------------------------------------------------------------------------- parts of a config -- */

/* The number of layers under any of the keys; of a list or a text, its length. */
static moecl_status read_layer_count(const struct reader *reader, size_t *layers)
{
    static const struct moecl_source usual = {.keys = {"num_hidden_layers"}};
    const struct moecl_source *source = &usual;
    moecl_status status = MOECL_OK;

    for (size_t i = 0; i < MOECL_FAMILY_SOURCES && reader->family->sources[i].keys[0]; i++)
        if (reader->family->sources[i].member == offsetof(struct moecl_reading, layers))
            source = &reader->family->sources[i];
    *layers = reader->family->base.layers;
    for (size_t i = 0; source->keys[i]; i++) {
        const json_t *value = at_path(reader->root, source->keys[i]);
        size_t number = json_is_array(value) ? json_array_size(value) : json_string_length(value);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_array(value) && !json_is_string(value))
            TRY(check_size(reader, source->keys[i], value, 1, most_layers, &number));
        if (number < 1 || number > most_layers || (*layers > 0 && *layers != number))
            FAIL(reader->error, MOECL_BAD_FILE, "%s: \"%s\" speaks of %zu layers, expected %zu to %zu", reader->path,
                 source->keys[i], number, *layers ? *layers : 1, *layers ? *layers : most_layers);
        *layers = number;
    }
    if (*layers == 0)
        TRY(missing(reader, source->keys));
    if (*layers > most_layers)
        FAIL(reader->error, MOECL_BAD_FILE, "%s: %zu layers, at most %zu are supported", reader->path, *layers,
             most_layers);
out:
    return status;
}

static moecl_status unknown_family(const struct reader *reader, const char *model_type)
{
    const struct moecl_family *family;
    moecl_status status =
        moecl_error_set(reader->error, MOECL_UNKNOWN_MODEL,
                        "%s: the model_type \"%s\" is of no known family:", reader->path, QUOTE(model_type));
    for (size_t i = 0; (family = moecl_family_row(i)); i++)
        if (!family->refusal)
            status = moecl_error_append(reader->error, status, "%s %s", i == 0 ? "" : ",", family->model_types[0]);
    return status;
}

/* The family of the config's model_type, or else of its text_config's: what holds a language model of a known family
 * may itself be of none. */
static moecl_status find_family(const struct reader *reader, const json_t *config, const struct moecl_family *given,
                                struct moecl_config *read)
{
    const json_t *value = json_object_get(config, "model_type");
    const char *model_type = json_string_value(value);
    const char *inner = json_string_value(json_object_get(reader->root, "model_type"));
    moecl_status status = MOECL_OK;

    if (!model_type && !given)
        TRY(wrong_kind(reader, "model_type", value, "a string"));
    read->family = given ? given : moecl_family_find(model_type);
    if (!read->family && inner)
        read->family = moecl_family_find(inner);
    if (!read->family)
        return unknown_family(reader, model_type);
    if (read->family->refusal)
        FAIL(reader->error, MOECL_UNSUPPORTED, "%s: models of the family %s are not supported: %s", reader->path,
             read->family->model_types[0], read->family->refusal);
    read->model_type = moecl_duplicate(model_type ? model_type : "");
    if (!read->model_type)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for a name", reader->path);
out:
    return status;
}

/* What cannot be computed yet must not be computed wrongly. */
static moecl_status refuse_quantised(const struct reader *reader, const json_t *config)
{
    const json_t *quantisation = json_object_get(config, "quantization_config");
    if (!quantisation || json_is_null(quantisation))
        return MOECL_OK;
    const char *method = json_string_value(json_object_get(quantisation, "quant_method"));
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED,
                           "%s: quantised weights (\"quantization_config\", quant_method \"%s\") are not supported",
                           reader->path, method ? QUOTE(method) : "");
}

/* ---------------------------------------------------------------------------------------------- the whole of it -- */

static moecl_status read_layers(struct reader *reader, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;

    TRY(read_layer_count(reader, &config->layers));
    config->layer = moecl_allocate(config->layers, sizeof *config->layer);
    if (!config->layer)
        FAIL(reader->error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu layers", reader->path, config->layers);
    for (reader->layer = 0; reader->layer < config->layers; reader->layer++)
        TRY(read_layer(reader, &config->layer[reader->layer]));
out:
    return status;
}

moecl_status moecl_config_read_object(struct moecl_error *error, const char *path, const json_t *root,
                                      const struct moecl_family *family, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    const json_t *inner = json_object_get(root, "text_config");
    struct reader reader = {.error = error, .path = path, .root = json_is_object(inner) ? inner : root};

    *config = (struct moecl_config){0};
    TRY(find_family(&reader, root, family, config));
    reader.family = config->family;
    TRY(refuse_quantised(&reader, root));
    TRY(refuse_quantised(&reader, reader.root));
    TRY(read_layers(&reader, config));
out:
    if (status != MOECL_OK)
        moecl_config_free(config);
    return status;
}

moecl_status moecl_config_read(struct moecl_error *error, const char *path, const char *text, size_t size,
                               const struct moecl_family *family, struct moecl_config *config)
{
    moecl_status status = MOECL_OK;
    json_t *root = NULL;

    *config = (struct moecl_config){0};
    TRY(moecl_json_parse(error, path, text, size, &root));
    TRY(moecl_config_read_object(error, path, root, family, config));
out:
    json_decref(root);
    return status;
}

void moecl_config_free(struct moecl_config *config)
{
    moecl_free(config->model_type);
    moecl_free(config->layer);
    *config = (struct moecl_config){0};
}
