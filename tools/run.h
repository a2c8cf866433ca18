/* SPDX-License-Identifier: Apache-2.0 */
/* run.h - what one `moecl run` holds: run.c fills it in, report.c shows it. */
#ifndef TOOLS_RUN_H
#define TOOLS_RUN_H

#include <moecl/model.h>

#include "options.h"
#include "statistics.h"
#include "survey.h"
#include "tokens.h"

struct run_options {
    struct common_options common;
    const char *model, *family;
    size_t layer; /* NO_LAYER: not given */
    const char *input, *output, *expect, *ids, *weights;
    const char *token_ids, *use_ids, *use_weights;
    bool stats;
    const char *heatmap;
    int dtype, activations; /* OPTION_NO_TYPE: not given */
    const char *variant;
    double tolerance; /* negative: by the types */
};
#define NO_LAYER SIZE_MAX

struct comparison {
    double error; /* max |y - expected| / max |expected| */
    double tolerance;
    size_t token, column; /* where it is largest */
    bool passed;
};

/* All that one run holds. */
struct run {
    const struct run_options *options;
    moecl_context *context;
    moecl_model *model;
    moecl_device_info device;
    struct survey survey; /* of all layers, where wanted */

    /* of the one layer */
    moecl_layer_options shape;
    moecl_type file_type; /* of the weights */
    moecl_layer *layer;
    struct tokens tokens;
    struct npy_array expected; /* f4 [T,H] */
    struct given_routing given;
    size_t slots;   /* choices of a token */
    float *y;       /* [T,H] */
    int32_t *ids;   /* [T, slots] */
    float *weights; /* [T, slots] */
    struct statistics statistics;
    moecl_forward forward;

    double seconds; /* of a warm forward pass */
    moecl_stage_times times;
    struct comparison comparison;
};

/* Fills in the comparison. */
void report_compare(struct run *run);
enum outcome report_print(const struct run *run, struct fault *fault);
enum outcome report_json(const struct run *run, struct fault *fault);

#endif
