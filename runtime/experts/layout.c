/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - packing one group's weights on the host. */
#include "layout.h"

#include <string.h>

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

static const void *element_at(const moecl_matrix *matrix, size_t row, size_t column)
{
    return (const char *)matrix->data + (row * matrix->columns + column) * moecl_type_size(matrix->type);
}

/* Which matrix and which of the group's rows a column of the panels holds. */
struct panel_column {
    bool up;
    size_t row;
};

static struct panel_column panel_column(const struct moecl_group_shape *shape, size_t column)
{
    if (!shape->gated)
        return (struct panel_column){false, column};
    const size_t block = column / (2 * MOECL_GATE_COLUMNS), within = column % (2 * MOECL_GATE_COLUMNS);
    return (struct panel_column){within >= MOECL_GATE_COLUMNS,
                                 block * MOECL_GATE_COLUMNS + within % MOECL_GATE_COLUMNS};
}

enum { PACK_STEPS = 128 }; /* steps of k turned at a time: what is read and written stays in the first-level cache */

/* lines [columns][PACK_STEPS] -> packed [steps][columns], for one element size. */
#define DEFINE_TURN(type)                                                                                              \
    static void turn_##type(const void *lines, size_t columns, size_t steps, void *packed)                             \
    {                                                                                                                  \
        const type *from = lines;                                                                                      \
        type *to = packed;                                                                                             \
        for (size_t k = 0; k < steps; k++)                                                                             \
            for (size_t c = 0; c < columns; c++)                                                                       \
                to[k * columns + c] = from[c * PACK_STEPS + k];                                                        \
    }
DEFINE_TURN(uint16_t)
DEFINE_TURN(uint32_t)

static void pack_panel(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t panel,
                       size_t first_row, const moecl_matrix *matrix, const moecl_matrix *up, char *packed)
{
    uint32_t lines[MOECL_MAX_PANEL_COLUMNS * PACK_STEPS]; /* of the storage type */
    const size_t width = layout->panel_columns, size = moecl_type_size(shape->type);
    const bool whole = first_row == 0 && matrix->rows == shape->out;
    for (size_t k = 0; k < shape->in; k += PACK_STEPS) {
        const size_t steps = shape->in - k < PACK_STEPS ? shape->in - k : PACK_STEPS;
        char *to = packed + k * width * size;
        for (size_t c = 0; c < width; c++) {
            const struct panel_column column = panel_column(shape, panel * width + c);
            char *line = (char *)lines + c * PACK_STEPS * size;
            const moecl_matrix *source = column.up ? up : matrix;
            if (column.row >= first_row && column.row - first_row < matrix->rows)
                moecl_convert(element_at(source, column.row - first_row, k), source->type, line, shape->type, steps);
            else if (whole || column.row >= shape->out)
                memset(line, 0, steps * size);
            else /* another call's row: keep it */
                for (size_t step = 0; step < steps; step++)
                    memcpy(line + step * size, to + (step * width + c) * size, size);
        }
        if (size == sizeof(uint16_t))
            turn_uint16_t(lines, width, steps, to);
        else
            turn_uint32_t(lines, width, steps, to);
    }
}

static void pack_panels(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                        const moecl_matrix *matrix, const moecl_matrix *up, char *packed)
{
    const size_t rows_a_panel = shape->gated ? layout->panel_columns / 2 : layout->panel_columns;
    const size_t panel_bytes = layout->panel_columns * shape->in * moecl_type_size(shape->type);
    const size_t end = moecl_divide_up(first_row + matrix->rows, rows_a_panel);
    for (size_t panel = first_row / rows_a_panel; panel < end; panel++)
        pack_panel(layout, shape, panel, first_row, matrix, up, packed + panel * panel_bytes);
}

void moecl_layout_pack(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                       const moecl_matrix *matrix, const moecl_matrix *up, void *packed)
{
    if (layout->kind == MOECL_LAYOUT_PANELS) {
        pack_panels(layout, shape, first_row, matrix, up, packed);
        return;
    }
    const size_t row_bytes = shape->in * moecl_type_size(shape->type), count = matrix->rows * shape->in;
    moecl_convert(matrix->data, matrix->type, (char *)packed + first_row * row_bytes, shape->type, count);
    if (shape->gated)
        moecl_convert(up->data, up->type, (char *)packed + (shape->out + first_row) * row_bytes, shape->type, count);
}
