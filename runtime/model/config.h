/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - what a config.json says of a model, read as its family says. */
#ifndef MOECL_RUNTIME_CONFIG_H
#define MOECL_RUNTIME_CONFIG_H

#include "family.h"

struct moecl_config_layer {
    bool moe;
    moecl_layer_options options; /* where moe; but for what only the tensors tell: types, router.table_rows */
};

struct moecl_config {
    const struct moecl_family *family;
    char *model_type;
    size_t layers;
    struct moecl_config_layer *layer; /* [layers] */
};

/* Reads the text of a config.json; `path` is for the sentence. `family` NULL: that of its model_type.
 * MOECL_BAD_FILE (malformed, a key is missing or of the wrong kind), MOECL_UNKNOWN_MODEL, MOECL_UNSUPPORTED (quantised
 * weights, an activation, more experts than we can, a family that no options describe). */
moecl_status moecl_config_read(struct moecl_error *error, const char *path, const char *text, size_t size,
                               const struct moecl_family *family, struct moecl_config *config);
/* The same of what is no text. */
moecl_status moecl_config_read_object(struct moecl_error *error, const char *path, const json_t *root,
                                      const struct moecl_family *family, struct moecl_config *config);
/* Zeroes it; a zeroed config is allowed. */
void moecl_config_free(struct moecl_config *config);

#endif
