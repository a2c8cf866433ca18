/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - what a moecl_model is made of. */
#ifndef MOECL_RUNTIME_MODEL_H
#define MOECL_RUNTIME_MODEL_H

#include <moecl/model.h>

#include "checkpoint.h"
#include "config.h"
#include "device/context.h"

struct moecl_model {
    struct moecl_context *context;
    char *directory; /* or GGUF file */
    /* both NULL where the family is a row of the table */
    json_t *description; /* holds the strings of the family */
    struct moecl_family *family;
    struct moecl_config config;
    struct moecl_checkpoint checkpoint;
};

/* The weights as moecl_model_weights(), with the layer's options but for `weights`, the type. */
moecl_status moecl_model_find_weights(const struct moecl_model *model, size_t layer, moecl_layer_options *options,
                                      moecl_layer_weights *weights);

#endif
