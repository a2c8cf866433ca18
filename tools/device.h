/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the open device: its memory as buffers, and the clock to time it by. */
#ifndef TOOLS_DEVICE_H
#define TOOLS_DEVICE_H

#include "fault.h"

/* A buffer of `bytes` bytes (0 counts as 1), filled from `content` unless that is NULL. `what` is for sentences. */
enum outcome device_buffer_create(moecl_context *context, const char *what, size_t bytes, const void *content,
                                  moecl_buffer *buffer, struct fault *fault);
void device_buffer_release(moecl_buffer *buffer); /* never made: fine */
/* Blocks. */
enum outcome device_buffer_read(moecl_context *context, const char *what, moecl_buffer buffer, size_t bytes, void *to,
                                struct fault *fault);
/* Waits for everything queued. */
enum outcome device_finish(moecl_context *context, struct fault *fault);

/* "platform / device (P:D)" into `text`; returns it. */
enum { DEVICE_TEXT = 512 };
const char *device_title(char text[DEVICE_TEXT], const moecl_device_info *info);
/* Bytes that the device can give: its memory, and for a CPU no more than the host has left. */
uint64_t device_available_memory(const moecl_device_info *info);
/* OUTCOME_ERROR, with what it would need and what there is, where the device has no room for `device_bytes` or the host
 * none for `host_bytes` besides. `what` goes into the sentence. */
enum outcome device_require_memory(const moecl_device_info *info, const char *what, double device_bytes,
                                   double host_bytes, struct fault *fault);

/* Seconds of a clock that only goes forward. */
double clock_seconds(void);
/* Sorts `times` and gives the one at `share` of the way: 0.5 is the median. */
double clock_quantile(double *times, size_t count, double share);

#endif
