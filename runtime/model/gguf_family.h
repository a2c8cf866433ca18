/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_family.h - what the pairs and the tensor names of a GGUF file mean. They are much the same for all
 * architectures, so that one is a few words: the family of families.c that it computes as, and where it goes its own
 * way. */
#ifndef MOECL_RUNTIME_GGUF_FAMILY_H
#define MOECL_RUNTIME_GGUF_FAMILY_H

#include "checkpoint.h"
#include "config.h"

/* The family of a "general.architecture"; false: none has it. */
bool moecl_gguf_family(const char *architecture, struct moecl_family *family);
/* The architectures; NULL past the last. */
const char *moecl_gguf_architecture(size_t index);

/* The config that a model's pairs say, as families read it: the architecture's own, without its name before them; as
 * "model_type", the architecture; "expert_gating_func" in words; and as "layers_with_router" and
 * "layers_with_selection_bias" the layers that have these tensors. Release it with json_decref(), after a failure too.
 * MOECL_BAD_FILE. */
moecl_status moecl_gguf_config(struct moecl_error *error, const char *path, const json_t *pairs,
                               const struct moecl_checkpoint *checkpoint, json_t **config);

#endif
