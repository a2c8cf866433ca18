/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.h - a layer's matrices out of a checkpoint's tensors, in whatever layout its family stores them. */
#ifndef MOECL_RUNTIME_TENSORS_H
#define MOECL_RUNTIME_TENSORS_H

#include <moecl/model.h>

#include "checkpoint.h"
#include "family.h"

/* Finds all weights that the layer with these options has; options->router.table_rows is filled in. Matrices point into
 * the checkpoint; free the rest with moecl_model_weights_free(), after a failure too. MOECL_BAD_FILE. */
moecl_status moecl_tensors_find(struct moecl_error *error, const char *directory,
                                const struct moecl_checkpoint *checkpoint, const struct moecl_family *family,
                                size_t layer, moecl_layer_options *options, moecl_layer_weights *weights);

#endif
