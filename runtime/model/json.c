/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - JSON out of files that are not trusted. */
#include "json.h"

#include <string.h>

/* The limit that the safetensors library sets for a header; configs and indices are far smaller. */
static const size_t largest_text = 100000000;

moecl_status moecl_json_parse(struct moecl_error *error, const char *path, const char *text, size_t size,
                              json_t **object)
{
    json_error_t problem;

    *object = NULL;
    if (size > largest_text)
        return moecl_error_set(error, MOECL_BAD_FILE, "%s: %zu bytes of JSON, more than the limit of %zu", path, size,
                               largest_text);
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &problem);
    if (!root && json_error_code(&problem) == json_error_out_of_memory)
        return moecl_error_set(error, MOECL_OUT_OF_HOST_MEMORY, "%s: no memory for %zu bytes of JSON", path, size);
    if (!root)
        return moecl_error_set(error, MOECL_BAD_FILE, "%s: invalid JSON in line %d, column %d: %s", path, problem.line,
                               problem.column, QUOTE(problem.text));
    if (!json_is_object(root)) {
        moecl_status status = moecl_error_set(error, MOECL_BAD_FILE, "%s: the JSON is %s, expected an object", path,
                                              moecl_json_kind(root));
        json_decref(root);
        return status;
    }
    *object = root;
    return MOECL_OK;
}

const char *moecl_json_kind(const json_t *value)
{
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

struct moecl_quoted moecl_quote(const char *text)
{
    static const char ellipsis[] = "...";
    struct moecl_quoted quoted;
    size_t length = 0;

    for (; text[length] != '\0' && length < sizeof quoted.text - 1; length++)
        quoted.text[length] = (text[length] >= ' ' && text[length] <= '~') ? text[length] : '?';
    quoted.text[length] = '\0';
    if (text[length] != '\0')
        memcpy(quoted.text + sizeof quoted.text - sizeof ellipsis, ellipsis, sizeof ellipsis);
    return quoted;
}
