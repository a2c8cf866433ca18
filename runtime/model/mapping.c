/* SPDX-License-Identifier: Apache-2.0 */
/* mapping.c - a file as read-only memory. */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static moecl_status fail(struct moecl_error *error, const char *path, const char *what, int code)
{
    char reason[128] = "";
    (void)strerror_r(code, reason, sizeof reason);
    return moecl_error_set(error, MOECL_FILE_ERROR, "cannot %s %s: %s", what, path, reason);
}

moecl_status moecl_mapping_open(struct moecl_error *error, const char *path, struct moecl_mapping *mapping)
{
    moecl_status status = MOECL_OK;
    struct stat file;
    void *data = NULL;

    *mapping = (struct moecl_mapping){0};
    /* O_NONBLOCK: a named pipe must not keep us waiting for its writer. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return fail(error, path, "open", errno);
    if (fstat(descriptor, &file) != 0)
        TRY(fail(error, path, "stat", errno));
    if (S_ISDIR(file.st_mode))
        TRY(fail(error, path, "read", EISDIR));
    if (!S_ISREG(file.st_mode))
        FAIL(error, MOECL_FILE_ERROR, "cannot read %s: it is not a regular file", path);
    if (file.st_size < 0 || (uintmax_t)file.st_size > SIZE_MAX)
        TRY(fail(error, path, "map", EFBIG));
    if (file.st_size == 0) {
        mapping->data = "";
        goto out;
    }
    data = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (data == MAP_FAILED)
        TRY(fail(error, path, "map", errno));
    *mapping = (struct moecl_mapping){data, (size_t)file.st_size};
out:
    (void)close(descriptor);
    return status;
}

void moecl_mapping_close(struct moecl_mapping *mapping)
{
    if (mapping->size > 0)
        (void)munmap((void *)(uintptr_t)mapping->data, mapping->size);
    *mapping = (struct moecl_mapping){0};
}

/* The pages that hold some bytes. Advice is only that: what it cannot do is no failure. */
static void advise(const void *data, size_t size, int advice)
{
    uintptr_t start = (uintptr_t)data - (uintptr_t)data % (uintptr_t)sysconf(_SC_PAGESIZE);
    if (size > 0)
        (void)madvise((void *)start, (uintptr_t)data - start + size, advice);
}

void moecl_mapping_drop(const struct moecl_mapping *mapping)
{
    advise(mapping->data, mapping->size, MADV_DONTNEED);
}

void moecl_mapping_prefetch(const void *data, size_t size)
{
    advise(data, size, MADV_WILLNEED);
}
