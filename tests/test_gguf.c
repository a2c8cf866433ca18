/* SPDX-License-Identifier: Apache-2.0 */
/* test_gguf.c - the reader of the GGUF format: what it finds, and what it refuses. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf.h"
#include "model/gguf.h"
#include "scratch.h"

/* ----------------------------------------------------------------------------------------- what can be read -- */

static void finds_tensors_and_pairs(void **state)
{
    (void)state;
    static const uint32_t versions[] = {2, 3};
    static const size_t alignments[] = {0, 1, 8, 4096};
    for (size_t v = 0; v < 2; v++)
        for (size_t a = 0; a < 4; a++) {
            struct gguf gguf = {.version = versions[v], .alignment = alignments[a]};
            const size_t shape[] = {2, 3, 4}, row[] = {32}, blocks[] = {2, 32};
            float values[24];
            unsigned char block[36] = {7};
            for (size_t i = 0; i < 24; i++)
                values[i] = (float)i;
            if (alignments[a])
                gguf_pair(&gguf, "general.alignment", GGUF_U32, (double)alignments[a]);
            gguf_tensor(&gguf, "b", GGUF_TYPE_F32, 3, shape, values, sizeof values);
            gguf_tensor(&gguf, "c", GGUF_TYPE_Q4_0, 2, blocks, block, sizeof block);
            gguf_tensor(&gguf, "a", GGUF_TYPE_F16, 1, row, values, 64);
            size_t size;
            unsigned char *bytes = gguf_finish(&gguf, &size);

            struct moecl_error error = {.sentence = ""};
            struct moecl_tensor_file file;
            json_t *pairs;
            moecl_type type = MOECL_BF16;
            if (moecl_gguf_parse(&error, "file", bytes, size, &file, &pairs) != MOECL_OK)
                fail_msg("%s", error.sentence);
            assert_int_equal(file.count, 3);
            const struct moecl_tensor *tensor = moecl_tensor_file_find(&file, "b");
            assert_non_null(tensor);
            assert_string_equal(tensor->file, "file");
            assert_string_equal(tensor->dtype, "F32");
            assert_int_equal(tensor->rank, 3);
            for (size_t i = 0; i < 3; i++)
                assert_int_equal(tensor->shape[i], shape[i]);
            assert_int_equal(tensor->size, sizeof values);
            assert_memory_equal(tensor->data, values, sizeof values);
            assert_true(moecl_tensor_type(tensor, &type) && type == MOECL_F32);
            assert_false(tensor->quantised);
            tensor = moecl_tensor_file_find(&file, "c");
            assert_non_null(tensor);
            assert_string_equal(tensor->dtype, "Q4_0");
            assert_true(tensor->quantised);
            assert_int_equal(tensor->size, sizeof block);
            assert_int_equal(tensor->data[0], 7);
            assert_false(moecl_tensor_type(tensor, &type));
            tensor = moecl_tensor_file_find(&file, "a");
            assert_non_null(tensor);
            assert_int_equal(tensor->size, 64);
            assert_null(moecl_tensor_file_find(&file, "d"));
            moecl_tensor_file_close(&file);
            json_decref(pairs);
            free(bytes);
        }
}

/* Each kind of number, at its edges. */
static void reads_all_kinds_of_values(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        enum gguf_kind kind;
        double value;
    } numbers[] = {
        {"u8", GGUF_U8, 255},         {"i8", GGUF_I8, -128},           {"u16", GGUF_U16, 65535},
        {"i16", GGUF_I16, -32768},    {"u32", GGUF_U32, 4294967295},   {"i32", GGUF_I32, -2147483648.0},
        {"u64", GGUF_U64, 1LL << 52}, {"i64", GGUF_I64, -(1LL << 52)}, {"f32", GGUF_F32, 0.25},
        {"f64", GGUF_F64, -0.1},
    };
    enum { NUMBERS = sizeof numbers / sizeof numbers[0] };
    static const double list[] = {3, 0, 5}, many[4097];
    struct gguf gguf = {.version = 0};
    for (size_t i = 0; i < NUMBERS; i++)
        gguf_pair(&gguf, numbers[i].key, numbers[i].kind, numbers[i].value);
    gguf_pair(&gguf, "yes", GGUF_BOOL, 1);
    gguf_pair(&gguf, "no", GGUF_BOOL, 0);
    gguf_pair(&gguf, "nan", GGUF_F32, (double)NAN);
    gguf_pair_string(&gguf, "text", "t\xc3\xa9xt");
    gguf_pair_array(&gguf, "list", GGUF_I32, list, 3);
    gguf_pair_array(&gguf, "none", GGUF_F64, NULL, 0);
    gguf_pair_array(&gguf, "many", GGUF_U8, many, 4097);
    gguf_pair_array(&gguf, "tokenizer.ggml.scores", GGUF_F32, list, 3);
    gguf_append_string(&gguf.pairs, "tokenizer.ggml.tokens"); /* an array of two strings */
    gguf_append_number(&gguf.pairs, GGUF_ARRAY, 4);
    gguf_append_number(&gguf.pairs, GGUF_STRING, 4);
    gguf_append_number(&gguf.pairs, 2, 8);
    gguf_append_string(&gguf.pairs, "one");
    gguf_append_string(&gguf.pairs, "\xff");
    gguf.pair_count++;
    gguf_pair(&gguf, "last", GGUF_U8, 9);
    size_t size;
    unsigned char *bytes = gguf_finish(&gguf, &size);

    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    json_t *pairs;
    if (moecl_gguf_parse(&error, "file", bytes, size, &file, &pairs) != MOECL_OK)
        fail_msg("%s", error.sentence);
    for (size_t i = 0; i < NUMBERS; i++) {
        const json_t *value = json_object_get(pairs, numbers[i].key);
        assert_true(json_is_integer(value) == (numbers[i].kind != GGUF_F32 && numbers[i].kind != GGUF_F64));
        assert_true(json_number_value(value) == numbers[i].value);
    }
    assert_true(json_is_true(json_object_get(pairs, "yes")));
    assert_true(json_is_false(json_object_get(pairs, "no")));
    assert_true(json_is_string(json_object_get(pairs, "nan")));
    assert_string_equal(json_string_value(json_object_get(pairs, "text")), "t\xc3\xa9xt");
    assert_int_equal(json_array_size(json_object_get(pairs, "list")), 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(json_integer_value(json_array_get(json_object_get(pairs, "list"), i)), (int)list[i]);
    assert_true(json_is_array(json_object_get(pairs, "none")));
    assert_true(json_is_null(json_object_get(pairs, "many")));
    assert_true(json_is_null(json_object_get(pairs, "tokenizer.ggml.scores")));
    assert_true(json_is_null(json_object_get(pairs, "tokenizer.ggml.tokens")));
    assert_int_equal(json_integer_value(json_object_get(pairs, "last")), 9);
    moecl_tensor_file_close(&file);
    json_decref(pairs);
    free(bytes);
}

/* -------------------------------------------------------------------------------------------- what is refused -- */

static void assert_refused(const unsigned char *bytes, size_t size, moecl_status status, const char *word)
{
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    json_t *pairs;
    unsigned char *copy = make(size + 1, 1); /* of the exact size, so that a read beyond it is seen */
    copy = realloc(copy, size ? size : 1);
    memcpy(copy, bytes, size);
    assert_int_equal(moecl_gguf_parse(&error, "some/file", copy, size, &file, &pairs), status);
    if (!strstr(error.sentence, "some/file") || !strstr(error.sentence, word))
        fail_msg("\"%s\" does not say \"%s\"", error.sentence, word);
    assert_null(pairs);
    assert_null(file.tensors);
    free(copy);
}

/* Finishes the file and looks how it is refused. */
static void refuse(struct gguf *gguf, const char *word)
{
    size_t size;
    unsigned char *bytes = gguf_finish(gguf, &size);
    assert_refused(bytes, size, MOECL_BAD_FILE, word);
    free(bytes);
}

static const float ones[64] = {1, 1, 1};
static const size_t eight[] = {8};

static void refuses_bad_starts(void **state)
{
    (void)state;
    size_t size;
    struct gguf gguf = {.version = 0};
    unsigned char *bytes = gguf_finish(&gguf, &size);
    assert_int_equal(size, 24);
    assert_refused(bytes, 0, MOECL_BAD_FILE, "no GGUF file");
    assert_refused(bytes, 3, MOECL_BAD_FILE, "no GGUF file");
    assert_refused(bytes, 23, MOECL_BAD_FILE, "ends within the first 24 bytes");
    bytes[4] = 1;
    assert_refused(bytes, size, MOECL_UNSUPPORTED, "version 1");
    bytes[4] = 0;
    bytes[7] = 3;
    assert_refused(bytes, size, MOECL_UNSUPPORTED, "big-endian");
    bytes[0] = 'g';
    assert_refused(bytes, size, MOECL_BAD_FILE, "no GGUF file");
    free(bytes);
    gguf.pair_count = UINT64_MAX;
    refuse(&gguf, "more than the limit");
    gguf.pair_count = 1;
    refuse(&gguf, "ends within the pairs");
    gguf.tensor_count = UINT64_MAX;
    refuse(&gguf, "ends within the tensors");
    gguf.tensor_count = UINT64_MAX / 24;
    refuse(&gguf, "ends within the tensors");
}

static void refuses_bad_pairs(void **state)
{
    (void)state;
    static const double list[] = {1, 2};
    struct gguf gguf = {.version = 0};
    gguf_pair(&gguf, "twice", GGUF_U8, 1);
    gguf_pair_string(&gguf, "twice", "again");
    refuse(&gguf, "\"twice\": it is there twice");
    gguf_pair_array(&gguf, "skipped", GGUF_STRING, NULL, 0);
    gguf_pair(&gguf, "skipped", GGUF_U8, 1);
    refuse(&gguf, "\"skipped\": it is there twice");
    gguf_pair(&gguf, "", GGUF_U8, 1);
    refuse(&gguf, "a name within the pairs");
    gguf_pair(&gguf, "a\xff", GGUF_U8, 1);
    refuse(&gguf, "its key is not UTF-8");
    gguf_pair(&gguf, "k", GGUF_U8, 1);
    gguf.pairs.bytes[gguf.pairs.size - 5] = GGUF_F64 + 1;
    refuse(&gguf, "\"k\": its value is of no known kind");
    gguf_pair(&gguf, "k", GGUF_U8, 2);
    gguf.pairs.bytes[gguf.pairs.size - 5] = GGUF_BOOL;
    refuse(&gguf, "neither 0 nor 1");
    gguf_pair_string(&gguf, "k", "\xc3");
    refuse(&gguf, "its string is not UTF-8");
    gguf_pair_string(&gguf, "k", "text");
    gguf.pairs.size--;
    refuse(&gguf, "ends within a pair's string");
    gguf_pair_array(&gguf, "k", GGUF_ARRAY, NULL, 0);
    refuse(&gguf, "the values of its array are of no known kind");
    gguf_pair_array(&gguf, "k", GGUF_U64, list, 2);
    gguf.pairs.bytes[gguf.pairs.size - 17] = 0xff; /* the count's last byte */
    refuse(&gguf, "ends within an array");
    gguf_pair_array(&gguf, "k", GGUF_STRING, NULL, 0);
    gguf.pairs.bytes[gguf.pairs.size - 1] = 0xff;
    refuse(&gguf, "ends within an array of strings");
    gguf_pair_array(&gguf, "k", GGUF_BOOL, list, 2);
    refuse(&gguf, "neither 0 nor 1");
    gguf_pair(&gguf, "general.alignment", GGUF_U32, 24);
    refuse(&gguf, "no power of two");
    gguf_pair(&gguf, "general.alignment", GGUF_U32, 0);
    refuse(&gguf, "no power of two");
    gguf_pair_string(&gguf, "general.alignment", "32");
    refuse(&gguf, "no power of two");
}

static void refuses_bad_tensors(void **state)
{
    (void)state;
    struct gguf gguf = {.version = 0};
    static const size_t huge[] = {(size_t)1 << 62, 8}, longer[] = {9}, odd[] = {2, 31}, five[] = {1, 1, 1, 1, 1};
    static const size_t negative[] = {SIZE_MAX};

    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, eight, ones, 32);
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, eight, ones, 32);
    refuse(&gguf, "\"t\": it is there twice");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, longer, ones, 32);
    refuse(&gguf, "its data do not lie in the file");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, longer, ones, 32);
    gguf_tensor(&gguf, "u", GGUF_TYPE_F32, 1, eight, ones, 32);
    refuse(&gguf, "\"u\": it overlaps another tensor");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, eight, ones, 32);
    gguf.tensors.bytes[gguf.tensors.size - 8] = 16;
    refuse(&gguf, "its offset is not aligned");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, eight, ones, 32);
    gguf.tensors.bytes[gguf.tensors.size - 1] = 0x80;
    refuse(&gguf, "its data do not lie in the file");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 2, huge, ones, 32);
    refuse(&gguf, "more elements than fit any memory");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, huge, ones, 32);
    refuse(&gguf, "more elements than fit any memory");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, negative, ones, 32);
    refuse(&gguf, "more elements than fit any memory");
    gguf_tensor(&gguf, "t", GGUF_TYPE_Q4_0, 2, odd, ones, 36);
    refuse(&gguf, "no whole number of blocks");
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 5, five, ones, 4);
    refuse(&gguf, "more than four dimensions");
    gguf_tensor(&gguf, "", GGUF_TYPE_F32, 1, eight, ones, 32);
    refuse(&gguf, "a name within the tensors");
    gguf_tensor(&gguf, "t?u", GGUF_TYPE_F32, 1, eight, ones, 32);
    gguf.tensors.bytes[9] = '\0';
    refuse(&gguf, "a name within the tensors");
}

/* A type that is none yet, which is no error until someone asks for the tensor. */
static void allows_unknown_types(void **state)
{
    (void)state;
    struct gguf gguf = {.version = 0};
    struct moecl_error error;
    struct moecl_tensor_file file;
    json_t *pairs;
    size_t size;
    gguf_tensor(&gguf, "t", 4242, 1, eight, ones, 32);
    gguf_tensor(&gguf, "u", GGUF_TYPE_F32, 1, eight, ones, 32);
    unsigned char *bytes = gguf_finish(&gguf, &size);
    assert_int_equal(moecl_gguf_parse(&error, "file", bytes, size, &file, &pairs), MOECL_OK);
    moecl_type type;
    assert_string_equal(moecl_tensor_file_find(&file, "t")->dtype, "type 4242");
    assert_false(moecl_tensor_type(moecl_tensor_file_find(&file, "t"), &type));
    assert_memory_equal(moecl_tensor_file_find(&file, "u")->data, ones, 32);
    moecl_tensor_file_close(&file);
    json_decref(pairs);
    free(bytes);
}

/* Every file that ends too early is refused, wherever it ends. */
static void refuses_truncated_files(void **state)
{
    (void)state;
    static const double list[] = {1, 2, 3};
    struct gguf gguf = {.version = 0};
    size_t size;
    gguf_pair_string(&gguf, "general.architecture", "none");
    gguf_pair_array(&gguf, "list", GGUF_F32, list, 3);
    gguf_pair(&gguf, "number", GGUF_U32, 3);
    gguf_tensor(&gguf, "t", GGUF_TYPE_F32, 1, eight, ones, 32);
    gguf_tensor(&gguf, "u", GGUF_TYPE_F16, 1, eight, ones, 16);
    unsigned char *bytes = gguf_finish(&gguf, &size);
    for (size_t cut = 0; cut < size; cut++)
        assert_refused(bytes, cut, MOECL_BAD_FILE, "");
    free(bytes);
}

static void refuses_what_is_no_file(void **state)
{
    (void)state;
    struct moecl_error error = {.sentence = ""};
    struct moecl_tensor_file file;
    json_t *pairs;
    char *directory = scratch_make(), *missing = scratch_path(directory, "x.gguf");
    assert_int_equal(moecl_gguf_open(&error, directory, &file, &pairs), MOECL_FILE_ERROR);
    assert_int_equal(moecl_gguf_open(&error, missing, &file, &pairs), MOECL_FILE_ERROR);
    assert_non_null(strstr(error.sentence, "x.gguf"));
    free(missing);
    scratch_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_tensors_and_pairs), cmocka_unit_test(reads_all_kinds_of_values),
        cmocka_unit_test(refuses_bad_starts),      cmocka_unit_test(refuses_bad_pairs),
        cmocka_unit_test(refuses_bad_tensors),     cmocka_unit_test(allows_unknown_types),
        cmocka_unit_test(refuses_truncated_files), cmocka_unit_test(refuses_what_is_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
