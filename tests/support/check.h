/* SPDX-License-Identifier: Apache-2.0 */
/* check.h - assertions beside cmocka's, and memory that cannot fail. Brings cmocka.h with what that needs. */
#ifndef MOECL_TESTS_CHECK_H
#define MOECL_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <moecl/moecl.h>

/* Fails with the context's sentence unless `call` gives MOECL_OK. */
#define ASSERT_OK(context, call) assert_ok((call), #call, moecl_context_error(context), __FILE__, __LINE__)
void assert_ok(moecl_status status, const char *call, const char *sentence, const char *file, int line);

/* The largest magnitude; NaN when there is a NaN. */
double largest(const double *values, size_t count);
/* Fails, saying where, unless |got - expected| <= tolerance * largest |expected| for every value (NaN fails). */
#define ASSERT_CLOSE(got, expected, count, tolerance)                                                                  \
    assert_close((got), (expected), (count), (tolerance), #got, __FILE__, __LINE__)
void assert_close(const double *got, const double *expected, size_t count, double tolerance, const char *what,
                  const char *file, int line);

/* Zeroed memory; fails the test when there is none. Free with free(). */
void *make(size_t count, size_t size);
/* Fresh memory with `count` values as doubles. */
double *to_doubles(const void *values, moecl_type type, size_t count);

#endif
