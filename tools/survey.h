/* SPDX-License-Identifier: Apache-2.0 */
/* survey.h - the routing of every MoE layer of a model, each on its own input. */
#ifndef TOOLS_SURVEY_H
#define TOOLS_SURVEY_H

#include <jansson.h>

#include <moecl/model.h>

#include "fault.h"
#include "statistics.h"

struct survey_layer {
    size_t layer; /* its number */
    struct statistics statistics;
};

/* Zero-initialise. */
struct survey {
    size_t count;
    struct survey_layer *layers;
};

/* Routes the tokens of `input`, in whose path '#' is the layer's number, through each layer's router, which is all of a
 * layer that is loaded. `token_ids` NULL: none are given. */
enum outcome survey_make(struct survey *survey, moecl_context *context, moecl_model *model, const char *input,
                         const char *token_ids, moecl_type activations, struct fault *fault);
void survey_free(struct survey *survey); /* zeroes it */

/* A row a layer. */
enum outcome survey_print(const struct survey *survey, struct fault *fault);
json_t *survey_json(const struct survey *survey);

#endif
