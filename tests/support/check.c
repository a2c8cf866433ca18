/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - assertions beside cmocka's, and memory that cannot fail. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

void assert_ok(moecl_status status, const char *call, const char *sentence, const char *file, int line)
{
    if (status == MOECL_OK)
        return;
    print_error("%s gives %s: %s\n", call, moecl_status_name(status), sentence);
    _fail(file, line);
}

double largest(const double *values, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++)
        if (!(fabs(values[i]) <= most))
            most = fabs(values[i]);
    return most;
}

void assert_close(const double *got, const double *expected, size_t count, double tolerance, const char *what,
                  const char *file, int line)
{
    double allowed = tolerance * largest(expected, count), worst = 0;
    size_t where = count;
    for (size_t i = 0; i < count; i++) {
        double error = fabs(got[i] - expected[i]);
        if (!(error <= allowed) && !(error <= worst)) {
            worst = error;
            where = i;
        }
    }
    if (where == count)
        return;
    print_error("%s[%zu] is %.9g instead of %.9g: off by %.3g, %.3g allowed\n", what, where, got[where],
                expected[where], worst, allowed);
    _fail(file, line);
}

void *make(size_t count, size_t size)
{
    void *memory = calloc(count > 0 ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

double *to_doubles(const void *values, moecl_type type, size_t count)
{
    double *doubles = make(count, sizeof *doubles);
    float *floats = make(count, sizeof *floats);
    moecl_convert(values, type, floats, MOECL_F32, count);
    for (size_t i = 0; i < count; i++)
        doubles[i] = floats[i];
    free(floats);
    return doubles;
}
