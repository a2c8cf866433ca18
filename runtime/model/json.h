/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - JSON out of files that are not trusted. */
#ifndef MOECL_RUNTIME_JSON_H
#define MOECL_RUNTIME_JSON_H

#include <jansson.h>
#include <stddef.h>

#include "device/error.h"

/* Parses `text`, which must be one JSON object; duplicate keys are refused. `path` is for the sentence only.
 * MOECL_BAD_FILE says where; release *object with json_decref(). */
moecl_status moecl_json_parse(struct moecl_error *error, const char *path, const char *text, size_t size,
                              json_t **object);
/* "a string", "an object" and so on; "nothing" for NULL. Static storage. */
const char *moecl_json_kind(const json_t *value);

/* A file's text as a sentence may show it: cut to a bearable length, and without what a terminal would obey. */
struct moecl_quoted {
    char text[160];
};
struct moecl_quoted moecl_quote(const char *text);
#define QUOTE(string) (moecl_quote(string).text)

#endif
