/* SPDX-License-Identifier: Apache-2.0 */
/* tokens.h - what a layer is run on: the tokens x, their ids, a routing of the caller's own; all out of .npy files. */
#ifndef TOOLS_TOKENS_H
#define TOOLS_TOKENS_H

#include <stdint.h>

#include <moecl/moecl.h>

#include "fault.h"
#include "npy.h"

/* `path` with every '#' replaced by the layer's number; free(). NULL: no memory. */
char *tokens_path(const char *path, size_t layer);

/* Zero-initialise. */
struct tokens {
    size_t count;       /* T */
    struct npy_array x; /* f4 [T,H], rounded to the activations' type */
    void *rounded;      /* x in that type */
    int32_t *ids;       /* [T]; NULL: not given */
};

/* Reads x for a layer of these options and, where `ids_path` is no NULL, the tokens' ids. A layer that routes by token
 * ids must have them. */
enum outcome tokens_read(struct tokens *tokens, const char *path, const char *ids_path,
                         const moecl_layer_options *options, struct fault *fault);
void tokens_free(struct tokens *tokens); /* zeroes it */

/* Reads an [T,H] array as f4, and refuses NaN and infinity. */
enum outcome tokens_read_rows(const char *path, size_t hidden, struct npy_array *array, struct fault *fault);

/* A routing [T, slots] of the caller's own; zero-initialise. */
struct given_routing {
    int32_t *ids;
    struct npy_array weights; /* f4 */
};
enum outcome given_routing_read(struct given_routing *routing, const char *ids_path, const char *weights_path,
                                size_t tokens, const moecl_layer_options *options, struct fault *fault);
void given_routing_free(struct given_routing *routing); /* zeroes it */

#endif
