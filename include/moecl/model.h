/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - MoE layers out of checkpoints.
 *
 * A model is a Hugging Face directory: config.json beside model.safetensors, or beside shards with their
 * model.safetensors.index.json. Or it is a GGUF file of llama.cpp's (version 2 or 3), or the first of several,
 * NAME-00001-of-0000N.gguf. The files are memory-mapped; tensors are F32, F16 or BF16. Files are not trusted: every
 * header, offset and shape is checked before it is used.
 *
 * What a model's config.json and tensor names mean is its family's: a row of a table (runtime/model/README.md lists the
 * families, and says how to add one), or a description of the caller's own. */
#ifndef MOECL_MODEL_H
#define MOECL_MODEL_H

#include <moecl/moecl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The weights of a layer in host memory, as a checkpoint holds them. What the layer does not have stays zero (data
 * NULL). */
typedef struct moecl_layer_weights {
    moecl_matrix router;                      /* [R,H]; hierarchical [R+groups,H] */
    moecl_matrix noise;                       /* [R,H] */
    const moecl_expert_weights *experts;      /* E of them */
    moecl_expert_weights shared;              /* the shared expert */
    moecl_matrix shared_gate;                 /* [1,H]; of SOFTMAX [2,H] */
    moecl_matrix latent_down, latent_up;      /* [L,H], [H,L] */
    moecl_matrix vectors[MOECL_VECTOR_COUNT]; /* [1,n] */
    const int32_t *table;                     /* [table_rows,k] */
} moecl_layer_weights;

/* Sets all weights that the layer has. */
MOECL_API moecl_status moecl_layer_set_weights(moecl_layer *layer, const moecl_layer_weights *weights);

typedef struct moecl_model moecl_model;

/* Opens a checkpoint: a directory, or a GGUF file. Needs no device; the context must outlive the model. `family` NULL:
 * the family is that of the config's model_type, or of the GGUF file's architecture; else it is the path of a JSON file
 * that describes the family in the terms of the table (runtime/model/README.md has an example).
 * MOECL_FILE_ERROR (a file is missing or unreadable), MOECL_BAD_FILE (malformed: the sentence says where),
 * MOECL_UNKNOWN_MODEL (no family has this model_type or architecture), MOECL_UNSUPPORTED (an activation or setting we
 * lack). */
MOECL_API moecl_status moecl_model_open(moecl_context *context, const char *path, const char *family,
                                        moecl_model **model);
MOECL_API void moecl_model_close(moecl_model *model); /* NULL is allowed */

typedef struct moecl_model_info {
    const char *model_type; /* as config.json says, or the architecture; owned by the model */
    const char *family;     /* the first name of the family that serves it; owned by the model */
    size_t layers;          /* all of the model's layers; those that are dense count too */
} moecl_model_info;
MOECL_API void moecl_model_describe(const moecl_model *model, moecl_model_info *info);

/* Whether layer `layer` (the N of the tensor names) is an MoE layer. false past the last layer. */
MOECL_API bool moecl_model_is_moe(const moecl_model *model, size_t layer);
/* The layer's options: sizes, router, functions; `weights` is the type that its expert tensors have in the file
 * (MOECL_F32 where they differ), `activations` MOECL_F32, the rest zero. MOECL_INVALID_ARGUMENT (no such layer, or a
 * dense one), MOECL_BAD_FILE (a tensor is missing or has the wrong shape or dtype; the sentence names it),
 * MOECL_UNSUPPORTED (it is quantised). */
MOECL_API moecl_status moecl_model_layer_options(moecl_model *model, size_t layer, moecl_layer_options *options);
/* The layer's weights: matrices, strided as the files store them, that point into the mapped files, valid until the
 * model is closed. Free the arrays with moecl_model_weights_free(). */
MOECL_API moecl_status moecl_model_weights(moecl_model *model, size_t layer, moecl_layer_weights *weights);
MOECL_API void moecl_model_weights_free(moecl_layer_weights *weights); /* zeroes it; NULL is allowed */

/* Makes a layer and streams its weights from the files, expert by expert; pages read are given back as it goes, so
 * that peak host memory is the packed weights plus a few experts. `options` as from moecl_model_layer_options(), with
 * weights, activations, variant, parameters and workspace_budget as the caller wants them. */
MOECL_API moecl_status moecl_layer_load(moecl_model *model, size_t layer, const moecl_layer_options *options,
                                        moecl_layer **loaded);

#ifdef __cplusplus
}
#endif

#endif
