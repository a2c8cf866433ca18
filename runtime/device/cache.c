/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - a directory of files, each a full key and a value.
 *
 * A file is a header, the key, the value; its name is the key's hash. A file that is damaged, cut short, of another
 * layout or of another key with the same hash is a miss, and the next store replaces it. */
#include "cache.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "memory.h"

struct header {
    char magic[8];
    uint64_t key_size, value_size, value_hash;
};
static const char magic[8] = "moecl 1";

static bool is_set(const char *text)
{
    return text != NULL && *text != 0;
}

/* The cache directory in fresh memory; NULL where there is none. */
static char *cache_directory(const struct moecl_context *context)
{
    const char *directory = context->cache_directory;
    if (directory == NULL && is_set(getenv("MOECL_CACHE_DIR")))
        directory = getenv("MOECL_CACHE_DIR");
    if (directory != NULL)
        return strcmp(directory, "off") == 0 ? NULL : moecl_duplicate(directory);

    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (is_set(xdg) && xdg[0] == '/') /* the XDG specification has relative ones ignored */
        return moecl_format("%s/moecl", xdg);
    return is_set(home) ? moecl_format("%s/.cache/moecl", home) : NULL;
}

/* The path of the key's file in fresh memory, NULL where there is no cache. */
static char *file_path(const char *directory, const char *kind, const void *key, size_t key_size)
{
    XXH128_hash_t hash = XXH3_128bits(key, key_size);
    return moecl_format("%s/%016llx%016llx.%s", directory, (unsigned long long)hash.high64,
                        (unsigned long long)hash.low64, kind);
}

/* Makes `path` and the directories above it, for the user alone. Failures show when a file is written. */
static void make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
}

/* ------------------------------------------------------------------------------------------------------ load -- */

/* The rest of a file whose size is known, in fresh memory; NULL if it is not so long. */
static unsigned char *read_file(const char *path, size_t *size)
{
    unsigned char *content = NULL;
    FILE *file = fopen(path, "rb");
    struct stat about;
    if (file == NULL)
        return NULL;
    if (fstat(fileno(file), &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0) {
        *size = (size_t)about.st_size;
        content = moecl_allocate(*size, 1);
        if (content != NULL && fread(content, 1, *size, file) != *size) {
            moecl_free(content);
            content = NULL;
        }
    }
    fclose(file);
    return content;
}

/* Where the value is in a file's content if that is whole and is this key's, else NULL. */
static const unsigned char *find_value(const unsigned char *content, size_t size, const void *key, size_t key_size,
                                       size_t *value_size)
{
    struct header header;
    if (size < sizeof(header))
        return NULL;
    memcpy(&header, content, sizeof(header));
    const unsigned char *rest = content + sizeof(header);
    size -= sizeof(header);
    if (memcmp(header.magic, magic, sizeof(magic)) != 0 || header.key_size != key_size || key_size > size ||
        header.value_size != size - key_size || memcmp(rest, key, key_size) != 0 ||
        header.value_hash != XXH3_64bits(rest + key_size, size - key_size))
        return NULL;
    *value_size = size - key_size;
    return rest + key_size;
}

bool moecl_cache_load(const struct moecl_context *context, const char *kind, const void *key, size_t key_size,
                      void **value, size_t *value_size)
{
    bool hit = false;
    char *path = NULL;
    unsigned char *content = NULL;
    size_t size;
    char *directory = cache_directory(context);
    if (directory != NULL)
        path = file_path(directory, kind, key, key_size);
    if (path != NULL)
        content = read_file(path, &size);
    if (content != NULL) {
        const unsigned char *found = find_value(content, size, key, key_size, value_size);
        if (found != NULL) {
            memmove(content, found, *value_size);
            *value = content;
            content = NULL;
            hit = true;
        }
    }
    moecl_free(content);
    moecl_free(path);
    moecl_free(directory);
    return hit;
}

/* ----------------------------------------------------------------------------------------------------- store -- */

static bool write_all(FILE *file, const void *data, size_t size)
{
    return size == 0 || fwrite(data, 1, size, file) == size;
}

/* Writes the file at `path`, which exists under a temporary name until it is whole. */
static bool write_file(int descriptor, const void *key, size_t key_size, const void *value, size_t value_size)
{
    struct header header = {
        .key_size = key_size, .value_size = value_size, .value_hash = XXH3_64bits(value, value_size)};
    memcpy(header.magic, magic, sizeof(magic));
    FILE *file = fdopen(descriptor, "wb");
    if (file == NULL) {
        close(descriptor);
        return false;
    }
    bool written = write_all(file, &header, sizeof(header)) && write_all(file, key, key_size) &&
                   write_all(file, value, value_size);
    return fclose(file) == 0 && written;
}

void moecl_cache_store(const struct moecl_context *context, const char *kind, const void *key, size_t key_size,
                       const void *value, size_t value_size)
{
    char *path = NULL, *temporary = NULL;
    char *directory = cache_directory(context);
    if (directory != NULL) {
        path = file_path(directory, kind, key, key_size);
        temporary = moecl_format("%s/writing-XXXXXX", directory);
    }
    if (path != NULL && temporary != NULL) {
        make_directories(directory);
        int descriptor = mkstemp(temporary);
        if (descriptor >= 0 &&
            !(write_file(descriptor, key, key_size, value, value_size) && rename(temporary, path) == 0))
            unlink(temporary);
    }
    moecl_free(temporary);
    moecl_free(path);
    moecl_free(directory);
}
