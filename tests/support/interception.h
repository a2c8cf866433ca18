/* SPDX-License-Identifier: Apache-2.0 */
/* interception.h - a test between the library and what it stands on: OpenCL and host memory.
 *
 * A test program that includes this header is linked (tests/CMakeLists.txt) so that every OpenCL call of runtime/
 * (opencl_functions.h) and every host allocation passes through here. It can make the n-th of them fail, and sees which
 * calls block, allocate, or leave something behind:
 *
 *     size_t n = 0;
 *     do {
 *         interception_start(++n);
 *         status = work();             releases what it made
 *         interception_stop();
 *         assert_true(interception.failed == NULL || status != MOECL_OK);
 *         assert_int_equal(interception.objects, 0);
 *     } while (interception.failed != NULL); */
#ifndef MOECL_TEST_INTERCEPTION_H
#define MOECL_TEST_INTERCEPTION_H

#include <stdbool.h>
#include <stddef.h>

struct interception {
    size_t fail_at;         /* the call to fail, 1 for the first; 0: none */
    size_t calls;           /* calls that can fail, since the start */
    const char *failed;     /* the function that was made to fail; NULL: none was */
    size_t blocking;        /* calls that wait for the device */
    const char *blocked_in; /* the last of them; NULL: none */
    size_t allocations;     /* host allocations, and OpenCL objects made but for events */
    long objects;           /* OpenCL references made and not given back */
    long memory;            /* host allocations not given back */
};
extern struct interception interception;

/* Counts from zero and fails the n-th call that can fail; 0 fails none. */
void interception_start(size_t fail_at);
/* Fails nothing any more; counts go on. */
void interception_stop(void);

#endif
