/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache.c - the disk cache: hits, misses, damaged files, writers at the same time, directories that are none. */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "device/cache.h"
#include "device/memory.h"
#include "scratch.h"

/* Files in the directory, -1 if there is no such directory; the name of the last one. */
static int count_files(const char *directory, char *name, size_t capacity)
{
    DIR *entries = opendir(directory);
    struct dirent *entry;
    int count = 0;
    if (entries == NULL)
        return -1;
    while ((entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        count++;
        if (name != NULL)
            snprintf(name, capacity, "%s", entry->d_name);
    }
    closedir(entries);
    return count;
}

/* Every test has a context whose cache is a fresh directory. */
struct fixture {
    moecl_context *context;
    char *directory;
};

static int set_up(void **state)
{
    static struct fixture fixture;
    fixture.directory = scratch_make();
    assert_int_equal(moecl_context_create(&fixture.context), MOECL_OK);
    ASSERT_OK(fixture.context, moecl_context_set_cache(fixture.context, fixture.directory));
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    moecl_context_destroy(fixture->context);
    scratch_remove(fixture->directory);
    return 0;
}

static void store(moecl_context *context, const char *key, const char *value)
{
    moecl_cache_store(context, "test", key, strlen(key), value, strlen(value));
}

static bool finds(moecl_context *context, const char *key, const char *expected)
{
    void *value = NULL;
    size_t size = 0;
    if (!moecl_cache_load(context, "test", key, strlen(key), &value, &size))
        return false;
    bool equal = size == strlen(expected) && memcmp(value, expected, size) == 0;
    moecl_free(value);
    assert_true(equal);
    return true;
}

static void hit_and_miss(void **state)
{
    struct fixture *fixture = *state;
    assert_false(finds(fixture->context, "key", ""));
    store(fixture->context, "key", "value");
    assert_true(finds(fixture->context, "key", "value"));
    assert_false(finds(fixture->context, "kez", ""));
    assert_false(finds(fixture->context, "key ", ""));
    store(fixture->context, "key", "another value");
    assert_true(finds(fixture->context, "key", "another value"));
    store(fixture->context, "kez", "");
    assert_true(finds(fixture->context, "kez", ""));
    assert_true(finds(fixture->context, "key", "another value"));
    assert_int_equal(count_files(fixture->directory, NULL, 0), 2);

    void *value;
    size_t size;
    assert_false(moecl_cache_load(fixture->context, "other", "key", 3, &value, &size));
}

/* The name and the content of the only file there is. */
static char *read_only_file(struct fixture *fixture, char name[256], size_t *size)
{
    assert_int_equal(count_files(fixture->directory, name, 256), 1);
    return scratch_read(fixture->directory, name, size);
}

static void assert_miss_then_rewritten(struct fixture *fixture)
{
    assert_false(finds(fixture->context, "some key", ""));
    store(fixture->context, "some key", "some value");
    assert_true(finds(fixture->context, "some key", "some value"));
}

static void any_flipped_bit_is_a_miss(void **state)
{
    struct fixture *fixture = *state;
    char name[256];
    size_t size;
    store(fixture->context, "some key", "some value");
    char *content = read_only_file(fixture, name, &size);
    for (size_t bit = 0; bit < 8 * size; bit++) {
        content[bit / 8] = (char)(content[bit / 8] ^ 1 << bit % 8);
        scratch_write(fixture->directory, name, content, size);
        content[bit / 8] = (char)(content[bit / 8] ^ 1 << bit % 8);
        assert_miss_then_rewritten(fixture);
    }
    free(content);
}

static void any_other_length_is_a_miss(void **state)
{
    struct fixture *fixture = *state;
    char name[256];
    size_t size;
    store(fixture->context, "some key", "some value");
    char *content = read_only_file(fixture, name, &size);
    content = realloc(content, size + 20);
    assert_non_null(content);
    memset(content + size, 'x', 20);
    for (size_t length = 0; length <= size + 20; length++) {
        if (length == size)
            continue;
        scratch_write(fixture->directory, name, content, length);
        assert_miss_then_rewritten(fixture);
    }
    free(content);
}

/* A file under the name that the key's hash gives, whole, but of another key: as if the hashes were equal. */
static void stale_key_is_a_miss(void **state)
{
    struct fixture *fixture = *state;
    char name[256], other_name[256];
    size_t size;
    store(fixture->context, "some key", "some value");
    free(read_only_file(fixture, name, &size));
    char *path = scratch_path(fixture->directory, name);
    assert_int_equal(unlink(path), 0);
    store(fixture->context, "same kez", "other text");
    char *other = read_only_file(fixture, other_name, &size);
    assert_string_not_equal(name, other_name);
    scratch_write(fixture->directory, name, other, size);
    assert_miss_then_rewritten(fixture);
    assert_true(finds(fixture->context, "same kez", "other text"));
    free(other);
    free(path);
}

static void a_directory_in_a_files_place_is_a_miss(void **state)
{
    struct fixture *fixture = *state;
    char name[256];
    size_t size;
    store(fixture->context, "some key", "some value");
    free(read_only_file(fixture, name, &size));
    char *path = scratch_path(fixture->directory, name);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(finds(fixture->context, "some key", ""));
    store(fixture->context, "some key", "some value");
    assert_false(finds(fixture->context, "some key", ""));
    assert_int_equal(count_files(fixture->directory, NULL, 0), 1); /* no temporary file is left */
    free(path);
}

/* ----------------------------------------------------------------------------------------------- directories -- */

static void directories_are_made(void **state)
{
    struct fixture *fixture = *state;
    char *deep = scratch_path(fixture->directory, "not/yet/there");
    ASSERT_OK(fixture->context, moecl_context_set_cache(fixture->context, deep));
    assert_false(finds(fixture->context, "key", ""));
    store(fixture->context, "key", "value");
    assert_true(finds(fixture->context, "key", "value"));
    assert_int_equal(count_files(deep, NULL, 0), 1);
    free(deep);
}

/* Below a file there can be no directory, not even for root. */
static void a_directory_that_cannot_be_made_is_no_error(void **state)
{
    struct fixture *fixture = *state;
    char *file = scratch_path(fixture->directory, "file"), *below = scratch_path(file, "cache");
    scratch_write(fixture->directory, "file", "x", 1);
    ASSERT_OK(fixture->context, moecl_context_set_cache(fixture->context, below));
    store(fixture->context, "key", "value");
    assert_false(finds(fixture->context, "key", ""));
    assert_int_equal(count_files(fixture->directory, NULL, 0), 1);
    free(below);
    free(file);
}

static void off_is_off(void **state)
{
    struct fixture *fixture = *state;
    store(fixture->context, "key", "value");
    ASSERT_OK(fixture->context, moecl_context_set_cache(fixture->context, "off"));
    assert_false(finds(fixture->context, "key", ""));
    store(fixture->context, "other", "value");
    ASSERT_OK(fixture->context, moecl_context_set_cache(fixture->context, fixture->directory));
    assert_true(finds(fixture->context, "key", "value"));
    assert_false(finds(fixture->context, "other", ""));
    assert_int_equal(access("off", F_OK), -1);
}

/* MOECL_CACHE_DIR before XDG_CACHE_HOME before HOME; each row says where the file is then found. */
static void the_environment_names_the_directory(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        const char *own, *xdg, *home, *found; /* below the fixture's directory, but "off" and "relative" */
    } rows[] = {
        {"own", "xdg", "home", "own"},
        {NULL, "xdg", "home", "xdg/moecl"},
        {"", "xdg", "home", "xdg/moecl"},
        {NULL, NULL, "home", "home/.cache/moecl"},
        {NULL, "", "home", "home/.cache/moecl"},
        {NULL, "relative", "home", "home/.cache/moecl"},
        {"off", "xdg", "home", NULL},
        {NULL, NULL, NULL, NULL},
    };
    ASSERT_OK(fixture->context, moecl_context_set_cache(fixture->context, NULL));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *const values[] = {rows[i].own, rows[i].xdg, rows[i].home};
        const char *const names[] = {"MOECL_CACHE_DIR", "XDG_CACHE_HOME", "HOME"};
        for (size_t v = 0; v < 3; v++) {
            if (values[v] == NULL) {
                unsetenv(names[v]);
            } else if (*values[v] == 0 || strcmp(values[v], "off") == 0 || strcmp(values[v], "relative") == 0) {
                setenv(names[v], values[v], 1);
            } else {
                char *path = scratch_path(fixture->directory, values[v]);
                setenv(names[v], path, 1);
                free(path);
            }
        }
        store(fixture->context, "key", "value");
        assert_int_equal(finds(fixture->context, "key", "value"), rows[i].found != NULL);
        if (rows[i].found != NULL) {
            char *found = scratch_path(fixture->directory, rows[i].found);
            assert_int_equal(count_files(found, NULL, 0), 1);
            scratch_remove(found);
        }
    }
}

/* ----------------------------------------------------------------------------------------- at the same time -- */

enum { WRITERS = 4, ROUNDS = 500, VALUE_SIZE = 20000 };

/* Writes and reads one key; each value is of one letter throughout, so that a mixture of two would show. */
static void *write_and_read(void *argument)
{
    const char *directory = argument;
    moecl_context *context = NULL;
    char *value = malloc(VALUE_SIZE);
    bool good = value != NULL && moecl_context_create(&context) == MOECL_OK &&
                moecl_context_set_cache(context, directory) == MOECL_OK;
    for (int round = 0; good && round < ROUNDS; round++) {
        memset(value, 'a' + round % 26, VALUE_SIZE);
        moecl_cache_store(context, "test", "shared", 6, value, VALUE_SIZE);
        void *found;
        size_t size;
        good = moecl_cache_load(context, "test", "shared", 6, &found, &size); /* someone's is always there */
        if (good) {
            const char *bytes = found;
            good = size == VALUE_SIZE && memcmp(bytes, bytes + 1, VALUE_SIZE - 1) == 0;
            moecl_free(found);
        }
    }
    moecl_context_destroy(context);
    free(value);
    return good ? argument : NULL;
}

static void writers_at_the_same_time(void **state)
{
    struct fixture *fixture = *state;
    pthread_t threads[WRITERS];
    for (size_t i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_and_read, fixture->directory), 0);
    for (size_t i = 0; i < WRITERS; i++) {
        void *good;
        assert_int_equal(pthread_join(threads[i], &good), 0);
        assert_non_null(good);
    }
    assert_int_equal(count_files(fixture->directory, NULL, 0), 1);
}

int main(void)
{
#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(hit_and_miss),
        IN_DIRECTORY(any_flipped_bit_is_a_miss),
        IN_DIRECTORY(any_other_length_is_a_miss),
        IN_DIRECTORY(stale_key_is_a_miss),
        IN_DIRECTORY(a_directory_in_a_files_place_is_a_miss),
        IN_DIRECTORY(directories_are_made),
        IN_DIRECTORY(a_directory_that_cannot_be_made_is_no_error),
        IN_DIRECTORY(off_is_off),
        IN_DIRECTORY(the_environment_names_the_directory),
        IN_DIRECTORY(writers_at_the_same_time),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
