/* SPDX-License-Identifier: Apache-2.0 */
/* load.h - how many tokens each expert got, and the picture of it. */
#ifndef TOOLS_LOAD_H
#define TOOLS_LOAD_H

#include <stddef.h>
#include <stdint.h>

/* Prints one bar an expert: with its number and count for up to 64 experts, a character each for more. */
void load_print(const uint32_t *counts, size_t experts);

#endif
