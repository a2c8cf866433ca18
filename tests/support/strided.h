/* SPDX-License-Identifier: Apache-2.0 */
/* strided.h - random matrices with the strides that checkpoints have. */
#ifndef MOECL_TESTS_STRIDED_H
#define MOECL_TESTS_STRIDED_H

#include "check.h"

enum {
    STRIDED_PLAIN,       /* both strides 0 */
    STRIDED_SAID,        /* the same, said by strides */
    STRIDED_GAPS,        /* rows with something between them */
    STRIDED_TRANSPOSED,  /* columns lie together */
    STRIDED_INTERLEAVED, /* columns with another matrix's elements between theirs */
    STRIDED_EVERY_OTHER, /* rows of every other element */
    STRIDED_KINDS
};

struct strided {
    moecl_matrix matrix;
    unsigned char *memory; /* data may lie anywhere in it, at any alignment */
};

/* Normally distributed values of deviation 1 / sqrt(columns), rounded to the type. */
struct strided strided_make(uint64_t *seed, size_t kind, moecl_type type, size_t rows, size_t columns);
/* The same values in fresh memory, without strides. */
struct strided strided_copy_plain(const struct strided *from);
/* The values as doubles, [rows][columns]. */
double *strided_doubles(const struct strided *from);
void strided_free(struct strided *matrix);

#endif
