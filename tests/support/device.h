/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the device under test, and arrays on it. */
#ifndef MOECL_TESTS_DEVICE_H
#define MOECL_TESTS_DEVICE_H

#include "check.h"

/* A context on the device that MOECL_DEVICE names (the default one if unset). */
moecl_context *open_context(void);
/* The same with a queue that the context adopts; NULL where the device has none with these properties. */
moecl_context *open_context_with_queue(cl_command_queue_properties properties);
/* The same for a cmocka group, as its state. */
int open_device(void **state);
int close_device(void **state);
/* How many random cases to try: MOECL_CASES; by default enough for every variant with every type, or,
 * where sizes are small, with every type of weights. */
size_t random_cases(void);
/* Whether the environment asks for sizes that a slow simulator can run (MOECL_SMALL). */
bool small_sizes(void);
/* Whether a program takes minutes to build there, so that the fewest will do (MOECL_SLOW_BUILDS). */
bool slow_builds(void);

/* `size` bytes on the device, between two guards that nobody may write to. */
struct array {
    moecl_buffer buffer;
    size_t size;
};
/* Content NULL: every byte is UNSET_BYTE. */
enum { UNSET_BYTE = 0xa5 };
struct array array_make(moecl_context *context, size_t size, const void *content);
/* Values of the type, from floats. */
struct array array_of(moecl_context *context, moecl_type type, const float *values, size_t count);
/* Waits for the queue, checks the guards, and reads. */
void array_read(moecl_context *context, struct array array, void *to);
/* The same into fresh memory: free(). */
void *array_bytes(moecl_context *context, struct array array);
double *array_doubles(moecl_context *context, struct array array, moecl_type type);
void array_release(struct array *array);

#endif
