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
/* Columns of the logits: the router's rows, then the shared gate's, then the noise's. */
size_t moecl_router_columns(const moecl_layer_options *options);
/* Columns of an expert's input and output: H, or L. */
size_t moecl_expert_width(const moecl_layer_options *options);

/* Whether the routing of a token depends on the other tokens of the pass, so that all are routed before any is
 * computed. */
bool moecl_layer_is_wide(const moecl_layer_options *options);
/* Whether it does so by the logits, not by the ids alone. */
bool moecl_layer_needs_all_logits(const moecl_layer_options *options);
/* Tokens that an expert takes where experts choose, of a pass of so many. */
size_t moecl_expert_choice_capacity(const moecl_layer_options *options, size_t tokens);
/* The most rows that `tokens` tokens of a pass of `pass_tokens` can give the experts. */
size_t moecl_layer_most_rows(const moecl_layer_options *options, size_t pass_tokens, size_t tokens);

/* MOECL_INVALID_ARGUMENT, with a sentence, unless every option is within its bounds and they go together. */
moecl_status moecl_layer_options_check(struct moecl_context *context, const moecl_layer_options *options);

#endif
