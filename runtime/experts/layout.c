/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - packing one group's weights on the host. */
#include "layout.h"

#include <string.h>

#include "device/matrix.h"
#include "device/memory.h"

size_t moecl_layout_panels(const struct moecl_layout *layout, const struct moecl_group_shape *shape)
{
    if (layout->kind != MOECL_LAYOUT_PANELS)
        return 0;
    if (!shape->gated)
        return moecl_divide_up(shape->out, layout->panel_columns);
    return moecl_divide_up(shape->out, layout->panel_columns / 2);
}

bool moecl_layout_group_bytes(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t *bytes)
{
    size_t columns = shape->out;
    if (layout->kind == MOECL_LAYOUT_PANELS) {
        if (shape->out > SIZE_MAX / 4)
            return false;
        columns = moecl_layout_panels(layout, shape) * layout->panel_columns;
    } else if (shape->gated && !moecl_size_multiply(columns, 2, &columns)) {
        return false;
    }
    size_t elements;
    return moecl_size_multiply(columns, shape->in, &elements) &&
           moecl_size_multiply(elements, moecl_type_size(shape->type), bytes);
}

/* Rows of one matrix that lie side by side in a panel. */
struct run {
    const moecl_matrix *source;
    size_t column; /* the panel's, where it begins */
    size_t row;    /* of the group, there */
    size_t rows;
};

/* The `index`-th run of a panel: all of it, or 8 of gate and 8 of up in turn. */
static struct run panel_run(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t panel,
                            size_t index, const moecl_matrix *matrix, const moecl_matrix *up)
{
    if (!shape->gated)
        return (struct run){matrix, 0, panel * layout->panel_columns, layout->panel_columns};
    const size_t first = panel * layout->panel_columns / 2 + index / 2 * MOECL_GATE_COLUMNS;
    return (struct run){index % 2 ? up : matrix, index * MOECL_GATE_COLUMNS, first, MOECL_GATE_COLUMNS};
}

/* Steps of k packed at a time: what is read and written stays in the first-level cache. Of a matrix that is read by
 * columns, a step is a stream of its own, of which processors follow few. */
enum { PACK_STEPS = 128, TRANSPOSED_STEPS = 32 };
enum { LARGEST_BLOCK = MOECL_MAX_PANEL_COLUMNS * PACK_STEPS };

/* lines [rows][steps] -> packed [steps][rows], whose steps lie `width` elements apart, for one element size. */
#define DEFINE_TURN(type)                                                                                              \
    static void turn_##type(const void *lines, size_t rows, size_t steps, void *packed, size_t width)                  \
    {                                                                                                                  \
        const type *from = lines;                                                                                      \
        type *to = packed;                                                                                             \
        for (size_t k = 0; k < steps; k++)                                                                             \
            for (size_t r = 0; r < rows; r++)                                                                          \
                to[k * width + r] = from[r * steps + k];                                                               \
    }
DEFINE_TURN(uint16_t)
DEFINE_TURN(uint32_t)

/* `rows` rows of the source from `first` on, `steps` steps from `k` on, to the columns of the panel at `to`. */
static void pack_rows(const moecl_matrix *source, size_t first, size_t rows, size_t k, size_t steps, moecl_type type,
                      size_t width, char *to)
{
    uint32_t block[LARGEST_BLOCK]; /* of the storage type */
    const size_t size = moecl_type_size(type);
    if (moecl_matrix_is_transposed(source)) {
        moecl_matrix_read_columns(source, first, rows, k, steps, type, block);
        for (size_t step = 0; step < steps; step++)
            memcpy(to + step * width * size, (const char *)block + step * rows * size, rows * size);
        return;
    }
    moecl_matrix_read_rows(source, first, rows, k, steps, type, block);
    if (size == sizeof(uint16_t))
        turn_uint16_t(block, rows, steps, to, width);
    else
        turn_uint32_t(block, rows, steps, to, width);
}

static void zero_columns(size_t columns, size_t steps, size_t size, size_t width, char *to)
{
    for (size_t step = 0; step < steps; step++)
        memset(to + step * width * size, 0, columns * size);
}

/* Steps k to k + steps - 1 of a panel, at `to`: those of its columns whose rows are given, and zeros in those that pad
 * the panel. */
static void pack_panel(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t panel,
                       size_t first_row, const moecl_matrix *matrix, const moecl_matrix *up, size_t k, size_t steps,
                       char *to)
{
    const size_t width = layout->panel_columns, size = moecl_type_size(shape->type);
    const size_t runs = shape->gated ? width / MOECL_GATE_COLUMNS : 1;
    for (size_t i = 0; i < runs; i++) {
        const struct run run = panel_run(layout, shape, panel, i, matrix, up);
        const size_t begin = run.row > first_row ? run.row : first_row;
        const size_t given = first_row + matrix->rows, run_end = run.row + run.rows;
        const size_t end = run_end < given ? run_end : given;
        if (begin < end)
            pack_rows(run.source, begin - first_row, end - begin, k, steps, shape->type, width,
                      to + (run.column + begin - run.row) * size);
        const size_t padding = shape->out > run.row ? shape->out : run.row;
        if (padding < run_end)
            zero_columns(run_end - padding, steps, size, width, to + (run.column + padding - run.row) * size);
    }
}

/* Panel by panel where rows lie together; else step by step, through all panels, for the same reason. */
static void pack_panels(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                        const moecl_matrix *matrix, const moecl_matrix *up, char *packed)
{
    const size_t size = moecl_type_size(shape->type), width = layout->panel_columns;
    const size_t rows_a_panel = shape->gated ? width / 2 : width;
    const size_t first = first_row / rows_a_panel, end = moecl_divide_up(first_row + matrix->rows, rows_a_panel);
    const bool transposed = moecl_matrix_is_transposed(matrix);
    const size_t steps = transposed ? TRANSPOSED_STEPS : PACK_STEPS;
    const size_t blocks = moecl_divide_up(shape->in, steps), panels = end - first;
    for (size_t i = 0; i < blocks * panels; i++) {
        const size_t k = steps * (transposed ? i / panels : i % blocks);
        const size_t panel = first + (transposed ? i % panels : i / blocks);
        pack_panel(layout, shape, panel, first_row, matrix, up, k, shape->in - k < steps ? shape->in - k : steps,
                   packed + (panel * shape->in + k) * width * size);
    }
}

void moecl_layout_pack(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                       const moecl_matrix *matrix, const moecl_matrix *up, void *packed)
{
    if (layout->kind == MOECL_LAYOUT_PANELS) {
        pack_panels(layout, shape, first_row, matrix, up, packed);
        return;
    }
    const size_t row_bytes = shape->in * moecl_type_size(shape->type);
    moecl_matrix_read(matrix, shape->type, (char *)packed + first_row * row_bytes);
    if (shape->gated)
        moecl_matrix_read(up, shape->type, (char *)packed + (shape->out + first_row) * row_bytes);
}
