/* SPDX-License-Identifier: Apache-2.0 */
/* shapes.h - sizes of MoE layers: those of well-known models by name, and what a layer of some size costs. */
#ifndef TOOLS_SHAPES_H
#define TOOLS_SHAPES_H

#include "options.h"

struct shape {
    const char *name; /* NULL: given by its numbers */
    size_t experts, hidden, intermediate, top_k;
};

/* Largest H and I of a shape given by the user: keeps every product of sizes below 2^63. */
enum { SHAPE_MAX_WIDTH = 1 << 20 };

/* An option's parser: a name of the table, or E,H,I,k. */
option_parser shape_parse;
/* The names, for help; shapes.c has their sizes. */
#define SHAPE_NAMES_HELP "mixtral-8x7b, qwen3-30b-a3b, olmoe-1b-7b, gpt-oss-20b,\ngranite-1b-a400m or deepseek-v3"

/* What a layer costs. Counts of weights, of bytes in their storage types, of floating-point operations. */
struct shape_cost {
    double parameters;       /* of the whole layer */
    double weight_bytes;     /* packed on the device, but for padding */
    double token_parameters; /* that one token meets: router, k experts, shared expert */
    double token_bytes;      /* of those */
    double token_flops;      /* a multiplication and an addition for each of those */
};
struct shape_cost shape_cost(const moecl_layer_options *options);

/* "32 experts, 4 a token, hidden 128, intermediate 64" into `text`; returns it. */
enum { SHAPE_TEXT = 160 };
const char *shape_describe(char text[SHAPE_TEXT], const moecl_layer_options *options);

#endif
