/* SPDX-License-Identifier: Apache-2.0 */
/* value.c - keys and values of a config.json. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "json.h"
#include "reader.h"

moecl_status moecl_value_wrong_kind(const struct moecl_reader *reader, const char *key, const json_t *value,
                                    const char *expected)
{
    return moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is %s, expected %s", reader->path, key,
                           moecl_json_kind(value), expected);
}

const json_t *moecl_value_at(const json_t *object, const char *path)
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

moecl_status moecl_value_find(const struct moecl_reader *reader, const moecl_spellings keys, const char **key,
                              const json_t **value)
{
    *key = keys[0];
    *value = NULL;
    for (size_t i = 0; keys[i]; i++) {
        const json_t *found = moecl_value_at(reader->root, keys[i]);
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

moecl_status moecl_value_find_for_layer(const struct moecl_reader *reader, const moecl_spellings keys, const char **key,
                                        const json_t **value)
{
    moecl_status status = MOECL_OK;
    TRY(moecl_value_find(reader, keys, key, value));
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

moecl_status moecl_value_size(const struct moecl_reader *reader, const char *key, const json_t *value, size_t minimum,
                              size_t maximum, size_t *size)
{
    if (!json_is_integer(value))
        return moecl_value_wrong_kind(reader, key, value, "an integer");
    const json_int_t number = json_integer_value(value);
    if (number < (json_int_t)minimum || (uintmax_t)number > maximum)
        return moecl_error_set(reader->error, MOECL_BAD_FILE,
                               "%s: \"%s\" is %" JSON_INTEGER_FORMAT ", expected %zu to %zu", reader->path, key, number,
                               minimum, maximum);
    *size = (size_t)number;
    return MOECL_OK;
}

moecl_status moecl_value_missing(const struct moecl_reader *reader, const moecl_spellings keys)
{
    moecl_status status =
        moecl_error_set(reader->error, MOECL_BAD_FILE, "%s: \"%s\" is missing", reader->path, keys[0]);
    for (size_t i = 1; keys[i]; i++)
        status = moecl_error_append(reader->error, status, "%s\"%s\"%s", i == 1 ? " (also spelled " : ", ", keys[i],
                                    keys[i + 1] ? "" : ")");
    return status;
}
