/* SPDX-License-Identifier: Apache-2.0 */
/* test_matrix.c - host matrices of any strides: checked, read and packed, against an element-by-element model. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "device/matrix.h"
#include "experts/layout.h"
#include "random.h"
#include "strided.h"

static const moecl_type types[] = {MOECL_F32, MOECL_F16, MOECL_BF16};

static size_t cases(size_t most)
{
    return number_from_environment("MOECL_SMALL", 0) ? most / 10 : most;
}

/* Element (r, c) as `type`, at `to`. */
static void element(const moecl_matrix *matrix, size_t r, size_t c, moecl_type type, void *to)
{
    const bool dense = matrix->row_stride == 0 && matrix->column_stride == 0;
    const size_t offset = dense ? r * matrix->columns + c : r * matrix->row_stride + c * matrix->column_stride;
    moecl_convert((const char *)matrix->data + offset * moecl_type_size(matrix->type), matrix->type, to, type, 1);
}

/* ------------------------------------------------------------------------------------------------------ reading -- */

/* Compares [rows][columns] at `got` with the block of the matrix at (r, c); turned: [columns][rows]. */
static void check_block(const moecl_matrix *matrix, size_t r, size_t rows, size_t c, size_t columns, bool turned,
                        moecl_type type, const void *got)
{
    const size_t size = moecl_type_size(type);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            uint32_t expected = 0;
            element(matrix, r + i, c + j, type, &expected);
            assert_memory_equal((const char *)got + (turned ? j * rows + i : i * columns + j) * size, &expected, size);
        }
}

static void reads_what_is_there(void **state)
{
    (void)state;
    for (uint64_t number = 0; number < cases(400); number++) {
        uint64_t seed = number + 1;
        const size_t most = number % 10 == 0 ? 1500 : 90; /* past the block that is gathered at once */
        const size_t rows = random_between(&seed, 1, 90), columns = random_between(&seed, 1, most);
        const moecl_type from = types[random_between(&seed, 0, 2)], to = types[random_between(&seed, 0, 2)];
        struct strided source = strided_make(&seed, random_between(&seed, 0, STRIDED_KINDS - 1), from, rows, columns);
        char *got = make(rows * columns, moecl_type_size(to));

        moecl_matrix_read(&source.matrix, to, got);
        check_block(&source.matrix, 0, rows, 0, columns, false, to, got);
        const size_t r = random_between(&seed, 0, rows - 1), c = random_between(&seed, 0, columns - 1);
        const size_t some = random_between(&seed, 0, rows - r), across = random_between(&seed, 0, columns - c);
        moecl_matrix_read_row(&source.matrix, r, c, across, to, got);
        check_block(&source.matrix, r, 1, c, across, false, to, got);
        moecl_matrix_read_rows(&source.matrix, r, some, c, across, to, got);
        check_block(&source.matrix, r, some, c, across, false, to, got);
        moecl_matrix_read_columns(&source.matrix, r, some, c, across, to, got);
        check_block(&source.matrix, r, some, c, across, true, to, got);
        const moecl_matrix part = moecl_matrix_rows(&source.matrix, r, rows - r);
        moecl_matrix_read(&part, to, got);
        check_block(&source.matrix, r, rows - r, 0, columns, false, to, got);
        free(got);
        strided_free(&source);
    }
}

static void refuses_what_is_no_matrix(void **state)
{
    (void)state;
    moecl_context *context;
    assert_int_equal(moecl_context_create(&context), MOECL_OK);
    const float value = 0;
    const size_t half = SIZE_MAX / 2;
    const struct {
        moecl_matrix matrix;
        moecl_status status;
    } cases[] = {
        {{&value, MOECL_F32, 1, 1, 0, 0}, MOECL_OK},
        {{&value, MOECL_F32, 1, 1, SIZE_MAX, SIZE_MAX}, MOECL_OK}, /* no element is that far */
        {{NULL, MOECL_F32, 1, 1, 0, 0}, MOECL_INVALID_ARGUMENT},
        {{&value, (moecl_type)17, 1, 1, 0, 0}, MOECL_INVALID_ARGUMENT},
        {{&value, MOECL_F32, 3, 2, SIZE_MAX / 16, 1}, MOECL_OK},
        {{&value, MOECL_F32, 3, 2, SIZE_MAX / 8, 1}, MOECL_INVALID_ARGUMENT}, /* in bytes */
        {{&value, MOECL_F16, 3, 2, half, 1}, MOECL_INVALID_ARGUMENT},
        {{&value, MOECL_F16, 3, 2, 1, SIZE_MAX}, MOECL_INVALID_ARGUMENT},
        {{&value, MOECL_F16, 2, 2, half, half}, MOECL_INVALID_ARGUMENT},
        {{&value, MOECL_F32, SIZE_MAX, 2, 0, 0}, MOECL_INVALID_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const moecl_matrix *matrix = &cases[i].matrix;
        assert_int_equal(moecl_matrix_check(context, matrix, matrix->rows, matrix->columns, "a matrix"),
                         cases[i].status);
    }
    assert_int_equal(moecl_matrix_check(context, &cases[0].matrix, 1, 2, "a matrix"), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_matrix_check(context, &cases[0].matrix, 2, 1, "a matrix"), MOECL_INVALID_ARGUMENT);
    assert_int_equal(moecl_matrix_check(context, NULL, 1, 1, "a matrix"), MOECL_INVALID_ARGUMENT);
    moecl_context_destroy(context);
}

/* ------------------------------------------------------------------------------------------------------ packing -- */

/* What layout.h says about the place (k, c) of a panel: which row of which matrix; false where it is padding. */
static bool panel_place(const struct moecl_group_shape *shape, size_t column, bool *up, size_t *row)
{
    *up = shape->gated && column % 16 >= 8;
    *row = shape->gated ? column / 16 * 8 + column % 8 : column;
    return *row < shape->out;
}

/* Packs rows first to end-1 of a group whose bytes were all UNSET, and compares every byte. */
static void check_packing(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first,
                          size_t end, const moecl_matrix *gate, const moecl_matrix *up)
{
    enum { UNSET = 0xa5 };
    const size_t size = moecl_type_size(shape->type), width = layout->panel_columns;
    size_t bytes;
    assert_true(moecl_layout_group_bytes(layout, shape, &bytes));
    unsigned char *packed = make(bytes + 1, 1), unset[4];
    memset(packed, UNSET, bytes + 1);
    memset(unset, UNSET, sizeof(unset));
    const moecl_matrix rows = moecl_matrix_rows(gate, first, end - first);
    const moecl_matrix up_rows = up ? moecl_matrix_rows(up, first, end - first) : (moecl_matrix){0};
    moecl_layout_pack(layout, shape, first, &rows, up ? &up_rows : NULL, packed);
    assert_int_equal(packed[bytes], UNSET);
    const size_t touched_first = width ? first / (shape->gated ? width / 2 : width) : 0;
    const size_t touched_end =
        width ? (end + (shape->gated ? width / 2 : width) - 1) / (shape->gated ? width / 2 : width) : 0;
    for (size_t i = 0; i < bytes / size; i++) {
        bool is_up, there = true;
        size_t row, k, panel = 0;
        if (layout->kind == MOECL_LAYOUT_PANELS) {
            const size_t side = layout->pairs ? 2 : 1, steps = (shape->in + side - 1) / side; /* side by side */
            panel = i / side / width / steps;
            k = i / side / width % steps * side + i % side;
            there = panel_place(shape, panel * width + i / side % width, &is_up, &row);
        } else {
            is_up = i / shape->in >= shape->out;
            row = i / shape->in % shape->out;
            k = i % shape->in;
        }
        unsigned char expected[4] = {0};
        /* Another's row stays as it is, and so does the padding of a panel that none of the rows is in. */
        const bool left = there ? row < first || row >= end : panel < touched_first || panel >= touched_end;
        if (left)
            memcpy(expected, unset, size);
        else if (there && k < shape->in)
            element(is_up ? up : gate, row, k, shape->type, expected);
        assert_memory_equal(packed + i * size, expected, size);
    }
    free(packed);
}

static void packs_any_strides(void **state)
{
    (void)state;
    for (uint64_t number = 0; number < cases(600); number++) {
        uint64_t seed = number + 1;
        struct moecl_group_shape shape = {random_between(&seed, 1, 80), random_between(&seed, 1, 200),
                                          random_between(&seed, 0, 1) == 1, types[random_between(&seed, 0, 2)]};
        struct moecl_layout layout = {MOECL_LAYOUT_ROWS, 0, false};
        if (number % 3)
            layout = (struct moecl_layout){MOECL_LAYOUT_PANELS, 16 * random_between(&seed, 1, 4),
                                           moecl_type_size(shape.type) == 2 && random_between(&seed, 0, 1) == 1};
        const moecl_type from = types[random_between(&seed, 0, 2)];
        struct strided gate =
            strided_make(&seed, random_between(&seed, 0, STRIDED_KINDS - 1), from, shape.out, shape.in);
        struct strided up = strided_make(&seed, random_between(&seed, 0, STRIDED_KINDS - 1), from, shape.out, shape.in);
        size_t first = random_between(&seed, 0, shape.out - 1), end = random_between(&seed, first + 1, shape.out);
        if (number % 2) {
            first = 0;
            end = shape.out;
        }
        check_packing(&layout, &shape, first, end, &gate.matrix, shape.gated ? &up.matrix : NULL);
        strided_free(&gate);
        strided_free(&up);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(refuses_what_is_no_matrix),
        cmocka_unit_test(packs_any_strides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
