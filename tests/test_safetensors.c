/* SPDX-License-Identifier: Apache-2.0 */
/* test_safetensors.c - the reader of the safetensors format: what it finds, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "model/safetensors.h"
#include "scratch.h"

/* The bytes of a file: the length of `header`, `header`, then `data_size` bytes 0, 1, 2, ... */
static unsigned char *build(const char *header, size_t data_size, size_t *size)
{
    size_t length = strlen(header);
    unsigned char *bytes = malloc(8 + length + data_size);
    assert_non_null(bytes);
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (unsigned char)i;
    *size = 8 + length + data_size;
    return bytes;
}

/* ----------------------------------------------------------------------------------------- what can be read -- */

static void test_finds_tensors_by_name(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_tensor_file file;
    size_t size;
    /* neither by name nor by place; the header's 8 + n bytes leave the data unaligned */
    unsigned char *bytes = build("{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                                 "\"c\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[0,4]},"
                                 "\"a\":{\"dtype\":\"I64\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[16,24],\"x\":1}}",
                                 24, &size);
    assert_int_equal(moecl_safetensors_parse(&error, "file", bytes, size, &file), MOECL_OK);
    assert_int_equal(file.count, 3);

    moecl_type type = MOECL_F16;
    const struct moecl_tensor *tensor = moecl_tensor_file_find(&file, "b");
    assert_non_null(tensor);
    assert_string_equal(tensor->name, "b");
    assert_string_equal(tensor->file, "file");
    assert_string_equal(tensor->dtype, "BF16");
    assert_int_equal(tensor->rank, 2);
    assert_int_equal(tensor->shape[0], 2);
    assert_int_equal(tensor->shape[1], 3);
    assert_int_equal(tensor->size, 12);
    assert_ptr_equal(tensor->data, bytes + size - 24 + 4);
    assert_true(moecl_tensor_type(tensor, &type));
    assert_int_equal(type, MOECL_BF16);

    tensor = moecl_tensor_file_find(&file, "c");
    assert_non_null(tensor);
    assert_int_equal(tensor->rank, 0);
    assert_int_equal(tensor->size, 4);

    tensor = moecl_tensor_file_find(&file, "a");
    assert_non_null(tensor);
    assert_int_equal(tensor->rank, 6);
    assert_false(moecl_tensor_type(tensor, &type));
    assert_int_equal(type, MOECL_BF16);

    assert_null(moecl_tensor_file_find(&file, "d"));
    assert_null(moecl_tensor_file_find(&file, ""));
    assert_null(moecl_tensor_file_find(&file, "__metadata__"));
    moecl_tensor_file_close(&file);
    free(bytes);
}

static void test_accepts(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data_size, count;
    } cases[] = {
        {"{}", 0, 0},
        {"{}      ", 0, 0}, /* padding */
        {"{\"__metadata__\":{}}", 0, 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]},"
         "\"b\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,2]}}",
         2, 2},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, 1}, /* unknown: size not held to shape */
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 1},
        {"{\"\xc3\xa4\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 1},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_error error = {.sentence = ""};
        struct moecl_tensor_file file;
        size_t size;
        unsigned char *bytes = build(cases[i].header, cases[i].data_size, &size);
        moecl_status status = moecl_safetensors_parse(&error, "file", bytes, size, &file);
        if (status != MOECL_OK)
            print_error("%s: %s\n", cases[i].header, error.sentence);
        assert_int_equal(status, MOECL_OK);
        assert_int_equal(file.count, cases[i].count);
        moecl_tensor_file_close(&file);
        free(bytes);
    }
}

/* ------------------------------------------------------------------------------------------- what is refused -- */

static void test_refuses(void **state)
{
    (void)state;
#define TENSOR(shape, offsets)                                                                                         \
    "{\"first\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"                                             \
    "\"blamed\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
    /* each has 12 bytes of data; [2] and [4,12] would be right */
    static const struct {
        const char *header, *sentence;
    } cases[] = {
        {"", "invalid JSON"},
        {"{", "invalid JSON"},
        {"[]", "expected an object"},
        {"{} {}", "invalid JSON"},
        {"{\"a\":1,\"a\":1}", "duplicate"},
        {"{\"\xff\":{}}", "invalid JSON"},
        {"{\"a\\u0000\":{}}", "invalid JSON"},
        {"{\"blamed\":[]}", "is not an object"},
        {"{\"blamed\":{}}", "\"dtype\""},
        {"{\"blamed\":{\"dtype\":1,\"shape\":[3],\"data_offsets\":[0,12]}}", "\"dtype\""},
        {"{\"blamed\":{\"dtype\":\"F32\",\"data_offsets\":[0,12]}}", "\"shape\""},
        {"{\"blamed\":{\"dtype\":\"F32\",\"shape\":[3]}}", "\"data_offsets\""},
        {TENSOR("3", "[4,12]"), "\"shape\""},
        {TENSOR("[-2]", "[4,12]"), "no size"},
        {TENSOR("[2.0]", "[4,12]"), "no size"},
        {TENSOR("[\"2\"]", "[4,12]"), "no size"},
        {TENSOR("[null]", "[4,12]"), "no size"},
        {TENSOR("[3]", "[4,12]"), "3 elements of F32 do not fit its 8 bytes"},
        {TENSOR("[1]", "[4,12]"), "1 elements of F32 do not fit its 8 bytes"},
        {TENSOR("[4294967296,4294967296]", "[4,12]"), "more elements than fit"},
        {TENSOR("[4611686018427387906]", "[4,12]"), "do not fit"}, /* times 4 is 8, modulo 2^64 */
        {TENSOR("[99999999999999999999]", "[4,12]"), "invalid JSON"},
        {TENSOR("[2]", "[4]"), "\"data_offsets\""},
        {TENSOR("[2]", "[4,8,12]"), "\"data_offsets\""},
        {TENSOR("[2]", "[4,12.0]"), "\"data_offsets\""},
        {TENSOR("[2]", "[-4,4]"), "\"data_offsets\""},
        {TENSOR("[2]", "{}"), "\"data_offsets\""},
        {TENSOR("[2]", "[12,4]"), "do not lie in the file's 12 bytes"},
        {TENSOR("[3]", "[4,16]"), "do not lie in the file's 12 bytes"},
        {TENSOR("[2]", "[9223372036854775800,9223372036854775807]"), "do not lie"},
        {TENSOR("[2]", "[0,8]"), "overlaps"},
        {TENSOR("[1]", "[8,12]"), "gap"},
        {TENSOR("[1]", "[4,8]"), "4 bytes behind the last tensor"},
        {"{}", "12 bytes behind the last tensor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moecl_error error = {.sentence = ""};
        struct moecl_tensor_file file;
        size_t size;
        unsigned char *bytes = build(cases[i].header, 12, &size);
        moecl_status status = moecl_safetensors_parse(&error, "some/file", bytes, size, &file);
        if (status != MOECL_BAD_FILE || !strstr(error.sentence, cases[i].sentence))
            print_error("%s: %s\n", cases[i].header, error.sentence);
        assert_int_equal(status, MOECL_BAD_FILE);
        assert_non_null(strstr(error.sentence, cases[i].sentence));
        assert_non_null(strstr(error.sentence, "some/file"));
        if (strstr(cases[i].header, "[4,12]") && !strstr(error.sentence, "JSON"))
            assert_non_null(strstr(error.sentence, "\"blamed\""));
        assert_null(file.tensors);
        free(bytes);
    }
}

static void test_refuses_header_lengths(void **state)
{
    (void)state;
    static const unsigned long long lengths[] = {3, 4, 8, 1ULL << 32, 1ULL << 63, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        struct moecl_error error;
        struct moecl_tensor_file file;
        unsigned char bytes[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        for (unsigned byte = 0; byte < 8; byte++)
            bytes[byte] = (unsigned char)(lengths[i] >> 8 * byte);
        assert_int_equal(moecl_safetensors_parse(&error, "file", bytes, sizeof bytes, &file), MOECL_BAD_FILE);
        assert_non_null(strstr(error.sentence, "beyond the end of the file"));
    }
    for (size_t size = 0; size < 8; size++) {
        struct moecl_error error;
        struct moecl_tensor_file file;
        assert_int_equal(moecl_safetensors_parse(&error, "file", "\0\0\0\0\0\0\0", size, &file), MOECL_BAD_FILE);
        assert_non_null(strstr(error.sentence, "too few"));
    }
}

static void test_refuses_deep_nesting(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_tensor_file file;
    size_t size;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 1);
    assert_non_null(header);
    memset(header, '[', DEPTH);
    header[DEPTH] = '\0';
    unsigned char *bytes = build(header, 0, &size);
    assert_int_equal(moecl_safetensors_parse(&error, "file", bytes, size, &file), MOECL_BAD_FILE);
    assert_non_null(strstr(error.sentence, "invalid JSON"));
    free(bytes);
    free(header);
}

/* A name is shown without what a terminal would obey, and does not push the rest of the sentence out. */
static void test_sentences_quote_names(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_tensor_file file;
    size_t size;
    char header[5000];
    (void)snprintf(header, sizeof header,
                   "{\"\\u001b[2J\\n%04000d\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,3]}}", 7);
    unsigned char *bytes = build(header, 3, &size);
    assert_int_equal(moecl_safetensors_parse(&error, "file", bytes, size, &file), MOECL_BAD_FILE);
    assert_non_null(strstr(error.sentence, "\"?[2J?000"));
    assert_non_null(strstr(error.sentence, "do not fit its 3 bytes"));
    for (const char *c = error.sentence; *c; c++)
        assert_in_range(*c, ' ', '~');
    free(bytes);
}

/* --------------------------------------------------------------------------------------------------- files -- */

static void test_reads_a_real_file(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_tensor_file file;
    size_t size;
    char *bytes = scratch_read(MOECL_TEST_DATA "/tiny-qwen3-moe", "model.safetensors", &size);
    uint64_t length;
    memcpy(&length, bytes, sizeof length);
    json_t *header = json_loadb(bytes + 8, (size_t)length, 0, NULL);
    assert_non_null(header);

    assert_int_equal(moecl_safetensors_open(&error, MOECL_TEST_DATA "/tiny-qwen3-moe/model.safetensors", &file),
                     MOECL_OK);
    const char *name;
    json_t *entry;
    size_t count = 0;
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        json_int_t begin, end;
        assert_int_equal(json_unpack(entry, "{s:[I,I]}", "data_offsets", &begin, &end), 0);
        const struct moecl_tensor *tensor = moecl_tensor_file_find(&file, name);
        assert_non_null(tensor);
        assert_int_equal(tensor->size, end - begin);
        assert_int_equal(memcmp(tensor->data, bytes + 8 + length + begin, tensor->size), 0);
        count++;
    }
    assert_int_equal(count, 317);
    assert_int_equal(file.count, count);
    moecl_mapping_drop(&file.mapping); /* the bytes come back when they are read again */
    assert_int_equal(memcmp(file.mapping.data, bytes, size), 0);
    moecl_tensor_file_close(&file);
    json_decref(header);
    free(bytes);
}

static void test_refuses_every_truncation(void **state)
{
    (void)state;
    struct moecl_error error;
    struct moecl_tensor_file file;
    size_t size;
    char *bytes = scratch_read(MOECL_TEST_DATA "/golden/olmoe", "model.safetensors", &size);
    for (size_t cut = 0; cut < size; cut += cut < 16 || cut + 16 > size ? 1 : 97) {
        char *copy = malloc(cut + 1); /* so that a sanitizer sees a read past the end */
        assert_non_null(copy);
        memcpy(copy, bytes, cut);
        assert_int_equal(moecl_safetensors_parse(&error, "file", copy, cut, &file), MOECL_BAD_FILE);
        free(copy);
    }
    free(bytes);
}

static void test_refuses_what_is_no_file(void **state)
{
    (void)state;
    char *directory = scratch_make();
    struct moecl_error error;
    struct moecl_tensor_file file;
    char *pipe = scratch_path(directory, "pipe"), *empty = scratch_path(directory, "empty");
    char *missing = scratch_path(directory, "missing");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    scratch_write(directory, "empty", "", 0);

    assert_int_equal(moecl_safetensors_open(&error, pipe, &file), MOECL_FILE_ERROR);
    assert_non_null(strstr(error.sentence, "not a regular file"));
    assert_int_equal(moecl_safetensors_open(&error, directory, &file), MOECL_FILE_ERROR);
    assert_non_null(strstr(error.sentence, "directory"));
    assert_int_equal(moecl_safetensors_open(&error, missing, &file), MOECL_FILE_ERROR);
    assert_non_null(strstr(error.sentence, missing));
    assert_non_null(strstr(error.sentence, "No such file"));
    assert_int_equal(moecl_safetensors_open(&error, empty, &file), MOECL_BAD_FILE);
    assert_non_null(strstr(error.sentence, "0 bytes are too few"));

    free(pipe);
    free(empty);
    free(missing);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_tensors_by_name),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_refuses_header_lengths),
        cmocka_unit_test(test_refuses_deep_nesting),
        cmocka_unit_test(test_sentences_quote_names),
        cmocka_unit_test(test_reads_a_real_file),
        cmocka_unit_test(test_refuses_every_truncation),
        cmocka_unit_test(test_refuses_what_is_no_file),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
