/* SPDX-License-Identifier: Apache-2.0 */
/* descriptor.h - layers drawn at random from all that a layer can be, and words for what a layer is. */
#ifndef TOOLS_DESCRIPTOR_H
#define TOOLS_DESCRIPTOR_H

#include <moecl/moecl.h>

/* The sizes that are drawn: up to so many. */
struct descriptor_limits {
    size_t experts, hidden, intermediate;
    size_t weights; /* of all experts together */
};

/* The layer of a seed; its variant stays NULL. Every option of moecl_layer_options is drawn, each now and then, and
 * each extreme: one expert, as many choices as experts, ... */
moecl_layer_options descriptor_draw(uint64_t seed, const struct descriptor_limits *limits);

/* The options of a layer that are not the plainest choice, in words, without its sizes and types: "sigmoid, 2 of 4
 * groups, scale 2.5". Returns `text`. */
enum { DESCRIPTOR_TEXT = 1024 };
const char *descriptor_text(char text[DESCRIPTOR_TEXT], const moecl_layer_options *options);

#endif
