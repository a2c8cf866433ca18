/* SPDX-License-Identifier: Apache-2.0 */
/* descriptor.h - layers drawn at random from all that a layer can be. */
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

#endif
