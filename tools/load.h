/* SPDX-License-Identifier: Apache-2.0 */
/* load.h - how many tokens each expert got, and the picture of it. */
#ifndef TOOLS_LOAD_H
#define TOOLS_LOAD_H

#include <stddef.h>
#include <stdint.h>

/* Counts ids [count] into counts [experts]; an id out of range is left out. */
void load_count(const int32_t *ids, size_t count, size_t experts, size_t *counts);
/* Prints one bar an expert: with its number and count for up to 64 experts, a character each for more. */
void load_print(const size_t *counts, size_t experts);

#endif
