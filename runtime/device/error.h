/* SPDX-License-Identifier: Apache-2.0 */
/* error.h - the one error path: a status to return, a sentence to keep.
 *
 * A function that can fail declares `moecl_status status = MOECL_OK;`, uses the macros below, and ends in a label
 * `out:` that releases what it holds (releases tolerate NULL) and returns status. */
#ifndef MOECL_RUNTIME_ERROR_H
#define MOECL_RUNTIME_ERROR_H

#include <moecl/moecl.h>

struct moecl_error {
    char sentence[2048];
};

#if defined(__GNUC__)
#define MOECL_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define MOECL_PRINTF(text, first)
#endif

/* Writes the sentence and returns `status`. error may be NULL. */
moecl_status moecl_error_set(struct moecl_error *error, moecl_status status, const char *format, ...)
    MOECL_PRINTF(3, 4);
/* Appends to the sentence of a failure on its way up, e.g. the shape of the layer. Returns `status`. */
moecl_status moecl_error_append(struct moecl_error *error, moecl_status status, const char *format, ...)
    MOECL_PRINTF(3, 4);
/* The sentence for a failed OpenCL call: `call` is its text as written ("clFoo(a, b)"; what follows the name is cut).
 * Out-of-memory codes map to their own statuses, all others to MOECL_OPENCL_ERROR. */
moecl_status moecl_error_opencl(struct moecl_error *error, cl_int code, const char *call);
/* "CL_INVALID_VALUE" and so on; static storage. */
const char *moecl_opencl_code_name(cl_int code);

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        status = (expression);                                                                                         \
        if (status != MOECL_OK)                                                                                        \
            goto out;                                                                                                  \
    } while (0)

/* Fails with a sentence. */
#define FAIL(error, failure, ...)                                                                                      \
    do {                                                                                                               \
        status = (failure);                                                                                            \
        moecl_error_set((error), status, __VA_ARGS__);                                                                 \
        goto out;                                                                                                      \
    } while (0)

/* Every OpenCL call goes through CL_TRY (calls that return a code) or CL_NEW (calls that return an object and write
 * their code to &cl_code), but for releases, which cannot usefully fail. */
#define CL_TRY(error, call)                                                                                            \
    do {                                                                                                               \
        cl_int cl_code = (call);                                                                                       \
        if (cl_code != CL_SUCCESS) {                                                                                   \
            status = moecl_error_opencl((error), cl_code, #call);                                                      \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CL_NEW(error, object, call)                                                                                    \
    do {                                                                                                               \
        cl_int cl_code = CL_SUCCESS;                                                                                   \
        (object) = (call);                                                                                             \
        if (cl_code != CL_SUCCESS) {                                                                                   \
            (object) = NULL;                                                                                           \
            status = moecl_error_opencl((error), cl_code, #call);                                                      \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

#endif
