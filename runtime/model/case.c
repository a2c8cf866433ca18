/* SPDX-License-Identifier: Apache-2.0 */
/* case.c - members that are set where a config.json says something, or for some layers. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "reader.h"

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
static moecl_status check_word(const struct moecl_reader *reader, const struct moecl_case *item, const char *key,
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
        return moecl_value_wrong_kind(reader, key, value, "a boolean");
    if (words && !json_is_string(value))
        return moecl_value_wrong_kind(reader, key, value, "a string");
    if (known || !json_is_string(value))
        return MOECL_OK;
    return moecl_error_set(reader->error, MOECL_UNSUPPORTED, "%s: the value \"%s\" of \"%s\" is not supported",
                           reader->path, QUOTE(text), key);
}

/* IS and IS_NOT. */
static moecl_status compare(const struct moecl_reader *reader, const struct moecl_case *item, bool *holds)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    char text[64];
    bool same = item->or_absent;

    TRY(moecl_value_find_for_layer(reader, item->keys, &key, &value));
    if (value) {
        as_text(value, text, sizeof text);
        TRY(check_word(reader, item, key, value, text));
        same = strcmp(text, item->value) == 0;
    } else if (strcmp(item->value, "null") == 0) {
        for (size_t i = 0; item->keys[i]; i++)
            same = same || json_is_null(moecl_value_at(reader->root, item->keys[i]));
    }
    *holds = same == (item->condition == MOECL_IS);
out:
    return status;
}

/* Whether a list of numbers, or a text "3,4,5", has the layer's. */
static moecl_status look_up(const struct moecl_reader *reader, const char *key, const json_t *value, bool *listed)
{
    moecl_status status = MOECL_OK;
    size_t i;
    const json_t *entry;

    *listed = false;
    if (json_is_string(value)) {
        for (const char *text = json_string_value(value); *text != '\0';) {
            size_t number = 0, digits = strspn(text, "0123456789");
            for (size_t at = 0; at < digits && number < (size_t)MOECL_MOST_LAYERS; at++)
                number = number * 10 + (size_t)(text[at] - '0');
            if (digits == 0 || (text[digits] != '\0' && text[digits] != ','))
                FAIL(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is no list of layers", reader->path, key);
            *listed = *listed || number == reader->layer;
            text += digits + (text[digits] == ',');
        }
        return MOECL_OK;
    }
    if (!json_is_array(value))
        TRY(moecl_value_wrong_kind(reader, key, value, "an array"));
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

static moecl_status read_phase(const struct moecl_reader *reader, const struct moecl_case *item, size_t step,
                               size_t *phase)
{
    const moecl_spellings keys = {item->phase_key};
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value = NULL;

    *phase = item->phase < 0 ? step - 1 : (size_t)item->phase % step;
    if (item->phase_key)
        TRY(moecl_value_find(reader, keys, &key, &value));
    if (value) {
        TRY(moecl_value_size(reader, key, value, 0, (size_t)MOECL_LARGEST_SIZE, phase));
        *phase %= step;
    }
out:
    return status;
}

static moecl_status has_other_letter(const struct moecl_reader *reader, const struct moecl_case *item, const char *key,
                                     const json_t *value, bool *holds)
{
    const char *letters = json_string_value(value);
    if (!letters)
        return moecl_value_wrong_kind(reader, key, value, "a string");
    if (reader->layer >= strlen(letters))
        return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" has no letter for layer %zu", reader->path,
                               key, reader->layer);
    *holds = letters[reader->layer] != item->value[0];
    return MOECL_OK;
}

/* The conditions on a layer's number. */
static moecl_status check_layer(const struct moecl_reader *reader, const struct moecl_case *item, bool *holds)
{
    moecl_status status = MOECL_OK;
    const char *key;
    const json_t *value;
    size_t number = item->otherwise, phase;
    bool listed;

    TRY(moecl_value_find(reader, item->keys, &key, &value));
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
            TRY(moecl_value_wrong_kind(reader, key, value, "an integer"));
        *holds = value && json_integer_value(value) >= 0 && reader->layer > (uintmax_t)json_integer_value(value);
    } else {
        const bool step = item->condition == MOECL_OFF_STEP;
        if (value)
            TRY(moecl_value_size(reader, key, value, step ? 1 : 0, (size_t)MOECL_LARGEST_SIZE, &number));
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

moecl_status moecl_case_apply(const struct moecl_reader *reader, const struct moecl_case *item,
                              struct moecl_reading *reading)
{
    moecl_status status = MOECL_OK;
    const json_t *other = item->unless ? moecl_value_at(reader->root, item->unless) : NULL;
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
