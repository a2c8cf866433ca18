/* SPDX-License-Identifier: Apache-2.0 */
/* reader.h - what reads a config.json for one layer: its values, and how a family's sources and cases apply to them. */
#ifndef MOECL_RUNTIME_READER_H
#define MOECL_RUNTIME_READER_H

#include <stdint.h>

#include "family.h"

/* Bounds for what no model has: they keep loops over layers and products of sizes harmless. */
enum { MOECL_MOST_LAYERS = 4096, MOECL_LARGEST_SIZE = INT32_MAX };

struct moecl_reader {
    struct moecl_error *error;
    const char *path;
    const json_t *root; /* the numbers of the language model: the config's "text_config" where it has one */
    const struct moecl_family *family;
    size_t layer; /* whose entry is taken out of lists */
};

/* ------------------------------------------------------------------------------------------ values (value.c) -- */

/* MOECL_BAD_FILE, with a sentence. */
moecl_status moecl_value_wrong_kind(const struct moecl_reader *reader, const char *key, const json_t *value,
                                    const char *expected);
moecl_status moecl_value_missing(const struct moecl_reader *reader, const moecl_spellings keys);
/* The value at a path of keys, "a.b"; NULL where there is none. */
const json_t *moecl_value_at(const json_t *object, const char *path);
/* The value under any spelling of a key, with the spelling in use; NULL where there is none. null counts as absent, and
 * two spellings that disagree are an error. */
moecl_status moecl_value_find(const struct moecl_reader *reader, const moecl_spellings keys, const char **key,
                              const json_t **value);
/* The same, but a list's entry for the layer. */
moecl_status moecl_value_find_for_layer(const struct moecl_reader *reader, const moecl_spellings keys, const char **key,
                                        const json_t **value);
/* A whole number within bounds. */
moecl_status moecl_value_size(const struct moecl_reader *reader, const char *key, const json_t *value, size_t minimum,
                              size_t maximum, size_t *size);

/* ---------------------------------------------------------------------------- sources and cases (source.c, case.c) --
 */

moecl_status moecl_source_apply(const struct moecl_reader *reader, const struct moecl_source *source,
                                struct moecl_reading *reading);
/* Those under usual keys, for what the family has no source of; sizes without which there is no layer are needed,
 * unless the row has them. */
moecl_status moecl_sources_apply_usual(const struct moecl_reader *reader, struct moecl_reading *reading);
/* That the reading has all of those sizes, whatever a row says. */
moecl_status moecl_sources_check(const struct moecl_reader *reader, const struct moecl_reading *reading);
moecl_status moecl_case_apply(const struct moecl_reader *reader, const struct moecl_case *item,
                              struct moecl_reading *reading);

#endif
