/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - what the options of a layer mean. */
#ifndef MOECL_RUNTIME_LAYER_OPTIONS_H
#define MOECL_RUNTIME_LAYER_OPTIONS_H

#include "device/context.h"

/* R: the experts and the zero experts. */
size_t moecl_router_outputs(const moecl_layer_options *options);
/* Rows of the router's matrix as the caller gives it: R, and a hierarchical router's groups. */
size_t moecl_router_rows(const moecl_layer_options *options);
size_t moecl_shared_gate_rows(const moecl_layer_options *options);
/* MOECL_INVALID_ARGUMENT, with a sentence, unless every option is within its bounds and they go together. */
moecl_status moecl_layer_options_check(struct moecl_context *context, const moecl_layer_options *options);

#endif
