/* SPDX-License-Identifier: Apache-2.0 */
/* test_npy.c - the tool's .npy files: what is read, what is refused, what is written. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tools/npy.h"
#include "scratch.h"

static struct fault fault;
static char *directory;

static int make_directory(void **state)
{
    (void)state;
    directory = scratch_make();
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    scratch_remove(directory);
    return 0;
}

/* Writes a file of that version, header text and data. */
static void write_npy(const char *name, int version, const char *header, const void *data, size_t size)
{
    char bytes[4096];
    size_t start = version == 1 ? 10 : 12, length = strlen(header);
    assert_true(start + length + size <= sizeof(bytes));
    memset(bytes, 0, start);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (char)version;
    bytes[8] = (char)(length & 0xff);
    bytes[9] = (char)(length >> 8);
    memcpy(bytes + start, header, length);
    if (size > 0)
        memcpy(bytes + start + length, data, size);
    scratch_write(directory, name, bytes, start + length + size);
}

static enum outcome read_npy(const char *name, size_t rank, int types, struct npy_array *array)
{
    char *path = scratch_path(directory, name);
    fault = (struct fault){"", ""};
    enum outcome outcome = npy_read(path, rank, types, array, &fault);
    free(path);
    return outcome;
}

/* ------------------------------------------------------------------------------------------------- reading -- */

static void test_headers_as_numpy_and_others_write_them(void **state)
{
    (void)state;
    static const struct {
        int version;
        const char *header;
        size_t rank;
    } good[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }            \n", 2},
        {2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 2},
        {3, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 2},
        {1, "{\"shape\":(6,),\"fortran_order\":False,\"descr\":\"<f4\"}", 1},
        {1, "{ 'fortran_order' : False , 'descr' : '<f4' , 'shape' : ( 1 , 2 , 3 , ) }\n", 3},
    };
    const float data[] = {1, -2, 3, 4, 5, 6.5f};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct npy_array array;
        write_npy("good.npy", good[i].version, good[i].header, data, sizeof(data));
        assert_int_equal(read_npy("good.npy", good[i].rank, NPY_F4, &array), OUTCOME_SUCCESS);
        assert_int_equal(array.count, 6);
        assert_memory_equal(array.data, data, sizeof(data));
        npy_free(&array);
    }
}

static void test_empty_arrays(void **state)
{
    (void)state;
    struct npy_array array;
    write_npy("empty.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 128), }\n", NULL, 0);
    assert_int_equal(read_npy("empty.npy", 2, NPY_F4 | NPY_F2, &array), OUTCOME_SUCCESS);
    assert_int_equal(array.count, 0);
    assert_int_equal(array.shape[1], 128);
    npy_free(&array);
}

static void test_half_precision_widens(void **state)
{
    (void)state;
    const uint16_t halves[] = {0x3c00, 0xc000, 0x3555, 0x0001}; /* 1, -2, 0.333252, 2^-24 */
    const float expected[] = {1, -2, 0.333251953125f, 0x1p-24f};
    struct npy_array array;
    write_npy("half.npy", 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2), }\n", halves, sizeof(halves));
    assert_int_equal(read_npy("half.npy", 2, NPY_F4 | NPY_F2, &array), OUTCOME_SUCCESS);
    assert_int_equal(npy_widen(&array, &fault), OUTCOME_SUCCESS);
    assert_int_equal(array.type, NPY_F4);
    assert_memory_equal(array.data, expected, sizeof(expected));
    npy_free(&array);
}

/* Each with the 24 bytes of a (2, 3) array of f4 behind it. */
static const struct {
    const char *header, *sentence;
} malformed[] = {
    {"", "no dictionary"},
    {"x", "no dictionary"},
    {"{", "malformed"},
    {"{}", "lacks"},
    {"{'descr': '<f4', 'fortran_order': False}", "lacks"},
    {"{'descr': '<f4', 'shape': (2, 3)}", "lacks"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}", "unknown or a repeated key"},
    {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", "unknown or a repeated key"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)} x", "goes on after"},
    {"{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3)}", "malformed"},
    {"{'descr: '<f4', 'fortran_order': False, 'shape': (2, 3)}", "malformed"},
    {"{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}", "neither True nor False"},
    {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", "Fortran order"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}", "shape is malformed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", "shape is malformed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (6)}", "shape is malformed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': [2, 3]}", "shape is malformed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", "shape is malformed"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,2,3)}", "shape is malformed or too large"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3)}", "shape is malformed or too large"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "too large to exist"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 1)}", "too large to exist"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3)}", "truncated: its shape needs 36 bytes"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}", "too long: its shape needs 16 bytes"},
    {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", "type '>f4'"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3)}", "type '<f8'"},
    {"{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", "type '|O'"},
    {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", "element type"},
};

static void test_malformed_headers(void **state)
{
    (void)state;
    const char data[24] = {0};
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        struct npy_array array;
        write_npy("bad.npy", 1, malformed[i].header, data, sizeof(data));
        assert_int_equal(read_npy("bad.npy", 2, NPY_F4, &array), OUTCOME_ERROR);
        assert_null(array.data);
        if (!strstr(fault.sentence, malformed[i].sentence))
            fail_msg("%s: '%s' does not say '%s'", malformed[i].header, fault.sentence, malformed[i].sentence);
        assert_non_null(strstr(fault.sentence, "bad.npy"));
    }
}

static void test_files_that_are_none(void **state)
{
    (void)state;
    struct npy_array array;
    static const struct {
        const char *bytes;
        size_t size;
        const char *sentence;
    } files[] = {
        {"", 0, "no NumPy file"},
        {"\x93NUMPY\1", 7, "no NumPy file"},
        {"\x93NUMPZ\1\0\0\0", 10, "no NumPy file"},
        {"\x93NUMPY\4\0\0\0", 10, "version 4.0"},
        {"\x93NUMPY\1\1\0\0", 10, "version 1.1"},
        {"\x93NUMPY\1\0\xff\0{}", 12, "beyond the file's end"},
        {"\x93NUMPY\2\0\xff\0", 10, "beyond the file's end"},
        {"\x93NUMPY\2\0\xff\xff\xff\xff{}", 14, "has a header of 4294967295 bytes"},
    };
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        scratch_write(directory, "none.npy", files[i].bytes, files[i].size);
        assert_int_equal(read_npy("none.npy", 2, NPY_F4, &array), OUTCOME_ERROR);
        if (!strstr(fault.sentence, files[i].sentence))
            fail_msg("file %zu: '%s' does not say '%s'", i, fault.sentence, files[i].sentence);
    }
    assert_int_equal(read_npy("missing.npy", 2, NPY_F4, &array), OUTCOME_ERROR);
    assert_non_null(strstr(fault.sentence, "No such file"));
    assert_int_equal(read_npy("", 2, NPY_F4, &array), OUTCOME_ERROR);
    assert_non_null(strstr(fault.sentence, "not a regular file"));
}

static void test_wrong_rank_and_type(void **state)
{
    (void)state;
    struct npy_array array;
    const char data[24] = {0};
    write_npy("f4.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", data, 24);
    assert_int_equal(read_npy("f4.npy", 1, NPY_F4, &array), OUTCOME_ERROR);
    assert_non_null(strstr(fault.sentence, "has rank 2; rank 1 is needed"));
    assert_int_equal(read_npy("f4.npy", 2, NPY_I4 | NPY_I8, &array), OUTCOME_ERROR);
    assert_non_null(strstr(fault.sentence, "holds f4; i4 or i8 is needed"));
}

/* ------------------------------------------------------------------------------------------------- writing -- */

static void test_what_is_written_reads_back(void **state)
{
    (void)state;
    static const int32_t values[] = {1, -2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const size_t shapes[][3] = {{12, 0, 0}, {3, 4, 0}, {3, 2, 2}};
    char *path = scratch_path(directory, "out.npy");
    for (size_t rank = 1; rank <= 3; rank++) {
        struct output_file file;
        struct npy_array array;
        size_t size;
        assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
        assert_int_equal(npy_write(&file, NPY_I4, rank, shapes[rank - 1], values, &fault), OUTCOME_SUCCESS);
        assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
        output_file_discard(&file);
        assert_int_equal(read_npy("out.npy", rank, NPY_I4, &array), OUTCOME_SUCCESS);
        assert_memory_equal(array.shape, shapes[rank - 1], rank * sizeof(size_t));
        assert_memory_equal(array.data, values, sizeof(values));
        npy_free(&array);
        char *bytes = scratch_read(directory, "out.npy", &size);
        assert_int_equal((size - sizeof(values)) % 64, 0); /* the data is aligned as NumPy aligns it */
        free(bytes);
    }
    free(path);
}

static void test_nothing_appears_before_the_commit(void **state)
{
    (void)state;
    struct output_file file;
    const float old = 1, new[] = {2, 3};
    const size_t one = 1, two = 2;
    char *path = scratch_path(directory, "kept.npy");
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_F4, 1, &one, &old, &fault), OUTCOME_SUCCESS);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);

    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_F4, 1, &two, new, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file); /* not committed */
    struct npy_array array;
    assert_int_equal(read_npy("kept.npy", 1, NPY_F4, &array), OUTCOME_SUCCESS);
    assert_int_equal(array.count, 1);
    npy_free(&array);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(directory), 0); /* nothing else is left */
    assert_int_equal(mkdir(directory, 0700), 0);
    free(path);
}

static void test_a_committed_file_is_as_open_would_make_it(void **state)
{
    (void)state;
    struct output_file file;
    struct stat about;
    char *path = scratch_path(directory, "mode.npy"), *link = scratch_path(directory, "link.npy");
    mode_t mask = umask(027);
    assert_int_equal(symlink("mode.npy", link), 0);
    assert_int_equal(output_file_open(&file, path, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0640);

    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(output_file_open(&file, link, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_write(&file, "abc", 3, &fault), OUTCOME_SUCCESS);
    assert_int_equal(output_file_commit(&file, &fault), OUTCOME_SUCCESS);
    output_file_discard(&file);
    assert_int_equal(lstat(link, &about), 0);
    assert_true(S_ISLNK(about.st_mode)); /* written through, not replaced */
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_size, 3);
    assert_int_equal(about.st_mode & 0777, 0604);
    umask(mask);
    free(path);
    free(link);
}

static void test_a_full_disk_is_noticed(void **state)
{
    (void)state;
    struct output_file file;
    const size_t one = 1;
    const float value = 1;
    assert_int_equal(output_file_open(&file, "/dev/full", &fault), OUTCOME_SUCCESS);
    assert_int_equal(npy_write(&file, NPY_F4, 1, &one, &value, &fault), OUTCOME_ERROR);
    assert_non_null(strstr(fault.sentence, "cannot write /dev/full: No space left"));
    output_file_discard(&file);
}

#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(test_headers_as_numpy_and_others_write_them),
        IN_DIRECTORY(test_empty_arrays),
        IN_DIRECTORY(test_half_precision_widens),
        IN_DIRECTORY(test_malformed_headers),
        IN_DIRECTORY(test_files_that_are_none),
        IN_DIRECTORY(test_wrong_rank_and_type),
        IN_DIRECTORY(test_what_is_written_reads_back),
        IN_DIRECTORY(test_nothing_appears_before_the_commit),
        IN_DIRECTORY(test_a_committed_file_is_as_open_would_make_it),
        IN_DIRECTORY(test_a_full_disk_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
