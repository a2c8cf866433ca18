/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.h - a layer's router and expert function in words, for people, and whole, for programs. */
#ifndef TOOLS_GRAMMAR_H
#define TOOLS_GRAMMAR_H

#include <jansson.h>
#include <stdbool.h>

#include <moecl/moecl.h>

/* Each writes a line into `text` and returns it. */
enum { GRAMMAR_TEXT = 512 };
/* "sigmoid over 16 experts, the best 2 of 4 groups, the top 4 by score + bias, weights divided by their sum" */
const char *grammar_router(char text[GRAMMAR_TEXT], const moecl_layer_options *options);
/* "down(silu(gate x) * up x)" */
const char *grammar_function(char text[GRAMMAR_TEXT], const moecl_expert_function *function);
/* What is done with the shared expert's output and around the experts; "" where there is nothing to say. */
const char *grammar_surroundings(char text[GRAMMAR_TEXT], const moecl_layer_options *options);

/* Whether two layers compute the same function of weights of the same shapes and storage type. */
bool grammar_same(const moecl_layer_options *a, const moecl_layer_options *b);

/* All members of both, by the library's own names. */
json_t *grammar_router_json(const moecl_router *router);
json_t *grammar_function_json(const moecl_expert_function *function);
json_t *grammar_input_json(const moecl_input *input);

#endif
