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

/* What lies side by side in a panel: elements, or pairs of them; its bytes, and how many steps of these there are. */
static size_t step_size(const struct moecl_layout *layout, const struct moecl_group_shape *shape)
{
    return (layout->pairs ? 2 : 1) * moecl_type_size(shape->type);
}

static size_t panel_steps(const struct moecl_layout *layout, const struct moecl_group_shape *shape)
{
    return layout->pairs ? moecl_divide_up(shape->in, 2) : shape->in;
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
    size_t steps;
    return moecl_size_multiply(columns, panel_steps(layout, shape), &steps) &&
           moecl_size_multiply(steps, step_size(layout, shape), bytes);
}

/* A strip of a matrix is rows of it that lie side by side in a panel: all of a panel's, or 8 of gate's beside 8 of
 * up's. */
static size_t strip_rows(const struct moecl_layout *layout, const struct moecl_group_shape *shape)
{
    return shape->gated ? MOECL_GATE_COLUMNS : layout->panel_columns;
}

/* Where the strip of the group's rows `first` on lies at step k, in pairs an even one. */
static char *strip_at(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first, bool up,
                      size_t k, char *packed)
{
    const size_t columns = shape->gated ? 2 * first + (up ? MOECL_GATE_COLUMNS : 0) : first;
    const size_t panel = columns / layout->panel_columns, column = columns % layout->panel_columns;
    const size_t step = panel * panel_steps(layout, shape) + (layout->pairs ? k / 2 : k);
    return packed + (step * layout->panel_columns + column) * step_size(layout, shape);
}

/* Copies to [steps][rows], whose steps lie `width` elements apart, for one element size: from [rows][steps], and from
 * [steps][rows] whose steps lie `pitch` apart. A constant number of rows makes vector instructions of both. */
#define TURN(ROWS)                                                                                                     \
    for (size_t k = 0; k < steps; k++)                                                                                 \
        for (size_t r = 0; r < (ROWS); r++)                                                                            \
            to[k * width + r] = from[r * steps + k];
#define DEFINE_COPIES(type)                                                                                            \
    static void turn_##type(const void *lines, size_t rows, size_t steps, void *packed, size_t width)                  \
    {                                                                                                                  \
        const type *restrict from = lines;                                                                             \
        type *restrict to = packed;                                                                                    \
        if (rows == 8)                                                                                                 \
            TURN(8)                                                                                                    \
        else if (rows == 16)                                                                                           \
            TURN(16)                                                                                                   \
        else                                                                                                           \
            TURN(rows)                                                                                                 \
    }                                                                                                                  \
    static void spread_##type(const char *from, size_t pitch, size_t rows, size_t steps, char *to, size_t width)       \
    {                                                                                                                  \
        for (size_t k = 0; k < steps; k++, from += pitch * sizeof(type), to += width * sizeof(type)) {                 \
            if (rows == 8)                                                                                             \
                memcpy(to, from, 8 * sizeof(type));                                                                    \
            else if (rows == 16)                                                                                       \
                memcpy(to, from, 16 * sizeof(type));                                                                   \
            else                                                                                                       \
                memcpy(to, from, rows * sizeof(type));                                                                 \
        }                                                                                                              \
    }
DEFINE_COPIES(uint16_t)
DEFINE_COPIES(uint32_t)

/* Copies to pairs [ceil(steps / 2)][rows], which lie `width` pairs apart; element (row, step) comes from
 * from[row * row_pitch + step * step_pitch]. */
static void copy_pairs(const uint16_t *from, size_t row_pitch, size_t step_pitch, size_t rows, size_t steps,
                       uint16_t (*to)[2], size_t width)
{
    for (size_t k = 0; k < steps; k += 2, to += width)
        for (size_t r = 0; r < rows; r++) {
            const uint16_t *first = from + r * row_pitch + k * step_pitch;
            to[r][0] = first[0];
            to[r][1] = k + 1 < steps ? first[step_pitch] : 0;
        }
}

/* Elements of a matrix read at a time: what is read and written stays in the first-level cache. Where it is read by
 * columns, a step is a stream of its own, of which processors follow few. */
enum { STEPS = 128, TRANSPOSED_STEPS = 32, TRANSPOSED_ROWS = 128 };
enum { LARGEST_BLOCK = MOECL_MAX_PANEL_COLUMNS * STEPS };

/* One matrix of a group on its way to the panels. */
struct source {
    const struct moecl_layout *layout;
    const struct moecl_group_shape *shape;
    const moecl_matrix *matrix; /* the group's rows from first_row on */
    size_t first_row, end_row;
    bool up;
    char *packed;
};

/* A strip's rows begin to end - 1, in a matrix whose rows lie together. */
static void pack_strip(const struct source *source, size_t begin, size_t end, size_t k, size_t steps)
{
    uint32_t block[LARGEST_BLOCK]; /* of the storage type */
    const size_t width = source->layout->panel_columns, rows = end - begin;
    const size_t size = step_size(source->layout, source->shape);
    const size_t within = begin % strip_rows(source->layout, source->shape);
    char *to = strip_at(source->layout, source->shape, begin - within, source->up, k, source->packed) + within * size;
    moecl_matrix_read_rows(source->matrix, begin - source->first_row, rows, k, steps, source->shape->type, block);
    if (source->layout->pairs)
        copy_pairs((const uint16_t *)block, steps, 1, rows, steps, (uint16_t(*)[2])to, width);
    else if (size == sizeof(uint16_t))
        turn_uint16_t(block, rows, steps, to, width);
    else
        turn_uint32_t(block, rows, steps, to, width);
}

/* Strips' rows begin to end - 1, in a matrix whose columns lie together. */
static void pack_strips(const struct source *source, size_t begin, size_t end, size_t k, size_t steps)
{
    uint32_t block[TRANSPOSED_STEPS * TRANSPOSED_ROWS];
    const size_t width = source->layout->panel_columns, pitch = end - begin;
    const size_t strip = strip_rows(source->layout, source->shape), size = step_size(source->layout, source->shape);
    const size_t element = moecl_type_size(source->shape->type);
    moecl_matrix_read_columns(source->matrix, begin - source->first_row, pitch, k, steps, source->shape->type, block);
    for (size_t row = begin, next; row < end; row = next) {
        const size_t within = row % strip;
        const char *from = (const char *)block + (row - begin) * element;
        char *to = strip_at(source->layout, source->shape, row - within, source->up, k, source->packed) + within * size;
        next = row - within + strip < end ? row - within + strip : end;
        if (source->layout->pairs)
            copy_pairs((const uint16_t *)(const void *)from, 1, pitch, next - row, steps, (uint16_t(*)[2])to, width);
        else if (size == sizeof(uint16_t))
            spread_uint16_t(from, pitch, next - row, steps, to, width);
        else
            spread_uint32_t(from, pitch, next - row, steps, to, width);
    }
}

/* Strip by strip where rows lie together, in the order of both memories; else step by step, for the same reason. */
static void pack_source(const struct source *source)
{
    const bool transposed = moecl_matrix_is_transposed(source->matrix);
    const size_t depth = source->shape->in, strip = strip_rows(source->layout, source->shape);
    const size_t most_steps = transposed ? TRANSPOSED_STEPS : STEPS;
    const size_t most_rows = transposed ? TRANSPOSED_ROWS / strip * strip : strip;
    const size_t first = source->first_row / most_rows, blocks = moecl_divide_up(source->end_row, most_rows) - first;
    const size_t cuts = moecl_divide_up(depth, most_steps);
    for (size_t i = 0; i < blocks * cuts; i++) {
        const size_t k = most_steps * (transposed ? i / blocks : i % cuts);
        const size_t block = first + (transposed ? i % blocks : i / cuts), steps = depth - k;
        const size_t begin = block * most_rows, end = begin + most_rows;
        (transposed ? pack_strips : pack_strip)(source, begin > source->first_row ? begin : source->first_row,
                                                end < source->end_row ? end : source->end_row, k,
                                                steps < most_steps ? steps : most_steps);
    }
}

/* Zeros in the columns past the group's last row, if the rows given are of the last panel. */
static void pad_panel(const struct source *source)
{
    const struct moecl_layout *layout = source->layout;
    const struct moecl_group_shape *shape = source->shape;
    const size_t strip = strip_rows(layout, shape), size = step_size(layout, shape);
    const size_t rows_a_panel = shape->gated ? layout->panel_columns / 2 : layout->panel_columns;
    const size_t end = moecl_round_up(source->end_row, rows_a_panel);
    for (size_t row = shape->out, next; row < end; row = next) {
        const size_t within = row % strip;
        char *to = strip_at(layout, shape, row - within, source->up, 0, source->packed) + within * size;
        next = row - within + strip;
        for (size_t k = 0; k < panel_steps(layout, shape); k++)
            memset(to + k * layout->panel_columns * size, 0, (next - row) * size);
    }
}

static void pack_panels(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                        const moecl_matrix *matrix, const moecl_matrix *up, char *packed)
{
    for (size_t i = 0; i < (shape->gated ? 2 : 1); i++) {
        const struct source source = {layout, shape, i ? up : matrix, first_row, first_row + matrix->rows,
                                      i > 0,  packed};
        pack_source(&source);
        pad_panel(&source);
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
