/* SPDX-License-Identifier: Apache-2.0 */
/* scratch.c - files for a test. */
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *scratch_make(void)
{
    const char *parent = getenv("TMPDIR");
    char *directory = scratch_path(parent ? parent : "/tmp", "moecl-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    return directory;
}

void scratch_remove(char *directory)
{
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *path = scratch_path(directory, entry->d_name);
        if (unlink(path) == 0)
            free(path);
        else
            scratch_remove(path);
    }
    assert_int_equal(closedir(listing), 0);
    assert_int_equal(rmdir(directory), 0);
    free(directory);
}

char *scratch_path(const char *directory, const char *name)
{
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    assert_non_null(path);
    (void)snprintf(path, size, "%s/%s", directory, name);
    return path;
}

void scratch_write(const char *directory, const char *name, const void *data, size_t size)
{
    char *path = scratch_path(directory, name);
    (void)remove(path); /* ext4 writes a file that is cut and written again to disk at once, a new one later or never */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    free(path);
}

char *scratch_read(const char *directory, const char *name, size_t *size)
{
    char *path = scratch_path(directory, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long end = ftell(file);
    assert_true(end >= 0);
    rewind(file);
    char *data = malloc((size_t)end + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)end, file), (size_t)end);
    data[end] = '\0';
    assert_int_equal(fclose(file), 0);
    free(path);
    *size = (size_t)end;
    return data;
}
