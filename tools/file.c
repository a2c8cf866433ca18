/* SPDX-License-Identifier: Apache-2.0 */
/* file.c - atomic output files. */
#include "file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum outcome cannot_write(const struct output_file *file, struct fault *fault)
{
    return fault_set(fault, OUTCOME_ERROR, "cannot write %s: %s", file->path, strerror(errno));
}

/* The access rights that fopen() would give the target. */
static mode_t target_mode(const struct stat *existing)
{
    if (existing)
        return existing->st_mode & 0777;
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

static enum outcome open_temporary(struct output_file *file, const struct stat *existing, struct fault *fault)
{
    static const char suffix[] = ".XXXXXX";
    size_t length = strlen(file->target);
    file->temporary = malloc(length + sizeof(suffix));
    if (!file->temporary)
        return fault_memory(fault, "a file name");
    memcpy(file->temporary, file->target, length);
    memcpy(file->temporary + length, suffix, sizeof(suffix));
    int descriptor = mkstemp(file->temporary);
    if (descriptor < 0) {
        enum outcome outcome = cannot_write(file, fault);
        free(file->temporary);
        file->temporary = NULL;
        return outcome;
    }
    (void)!fchmod(descriptor, target_mode(existing)); /* a file system without access rights is fine */
    file->stream = fdopen(descriptor, "wb");
    if (!file->stream) {
        close(descriptor);
        return cannot_write(file, fault);
    }
    return OUTCOME_SUCCESS;
}

enum outcome output_file_open(struct output_file *file, const char *path, struct fault *fault)
{
    enum outcome outcome = OUTCOME_SUCCESS;
    struct stat about;
    *file = (struct output_file){.path = path};
    bool exists = stat(path, &about) == 0;
    if (exists && S_ISDIR(about.st_mode))
        FAIL(OUTCOME_ERROR, "cannot write %s: it is a directory", path);
    if (exists && !S_ISREG(about.st_mode)) {
        file->stream = fopen(path, "wb");
        outcome = file->stream ? OUTCOME_SUCCESS : cannot_write(file, fault);
        goto out;
    }
    if (exists && access(path, W_OK) != 0) {
        outcome = cannot_write(file, fault);
        goto out;
    }
    file->target = exists ? realpath(path, NULL) : strdup(path);
    if (!file->target) {
        outcome = cannot_write(file, fault);
        goto out;
    }
    outcome = open_temporary(file, exists ? &about : NULL, fault);
out:
    if (outcome != OUTCOME_SUCCESS)
        output_file_discard(file);
    return outcome;
}

enum outcome output_file_write(struct output_file *file, const void *data, size_t bytes, struct fault *fault)
{
    return fwrite(data, 1, bytes, file->stream) == bytes ? OUTCOME_SUCCESS : cannot_write(file, fault);
}

enum outcome output_file_flush(struct output_file *file, struct fault *fault)
{
    return fflush(file->stream) == 0 ? OUTCOME_SUCCESS : cannot_write(file, fault);
}

enum outcome output_file_commit(struct output_file *file, struct fault *fault)
{
    int closed = fclose(file->stream);
    file->stream = NULL;
    if (closed != 0 || (file->temporary && rename(file->temporary, file->target) != 0))
        return cannot_write(file, fault);
    free(file->temporary);
    file->temporary = NULL;
    return OUTCOME_SUCCESS;
}

void output_file_discard(struct output_file *file)
{
    if (file->stream)
        fclose(file->stream);
    if (file->temporary)
        unlink(file->temporary);
    free(file->temporary);
    free(file->target);
    *file = (struct output_file){0};
}
