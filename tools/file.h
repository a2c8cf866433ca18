/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - output files that appear complete or not at all.
 *
 * Opening makes a temporary file beside the target, so a path that cannot be written is known before any work;
 * committing renames it onto the target. A target that exists and is no regular file (/dev/null, a pipe) is written
 * directly. */
#ifndef TOOLS_FILE_H
#define TOOLS_FILE_H

#include <stdio.h>

#include "fault.h"

/* Zero-initialise. */
struct output_file {
    const char *path; /* as the user gave it, borrowed */
    char *target;     /* behind symbolic links */
    char *temporary;  /* NULL: `stream` is the target itself */
    FILE *stream;     /* NULL: not open */
};

enum outcome output_file_open(struct output_file *file, const char *path, struct fault *fault);
enum outcome output_file_write(struct output_file *file, const void *data, size_t bytes, struct fault *fault);
/* Everything that can still fail for want of space, short of the rename. */
enum outcome output_file_flush(struct output_file *file, struct fault *fault);
enum outcome output_file_commit(struct output_file *file, struct fault *fault);
/* Leaves nothing behind of a file that is not committed, and frees; a file never opened is fine. */
void output_file_discard(struct output_file *file);

#endif
