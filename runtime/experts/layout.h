/* SPDX-License-Identifier: Apache-2.0 */
/* layout.h - how the weights of one group lie in device memory.
 *
 *   rows     [N][K] as checkpoints have it; gated: gate [N][K], then up [N][K]
 *   panels   [ceil(columns / W)][K][W] with W = panel_columns; columns past the last are zero. Plain: column n is row n
 *            of the matrix. Gated: of every 16 columns 8 are gate's and 8 up's: column 16 i + c is gate's row 8 i + c,
 *            column 16 i + 8 + c is up's
 *   panels   of pairs: the same with pairs of steps for steps: [ceil(columns / W)][ceil(K / 2)][W][2], bf16; where K is
 *            odd, the last pair's second half is zero
 *
 * A layout serves decode and prefill alike; variants say which they read. */
#ifndef MOECL_RUNTIME_LAYOUT_H
#define MOECL_RUNTIME_LAYOUT_H

#include <moecl/moecl.h>

enum { MOECL_GATE_COLUMNS = 8 };       /* of gate, then as many of up; cl/columns.cl has the same */
enum { MOECL_MAX_PANEL_COLUMNS = 64 }; /* bounds the packing buffer on the stack */

struct moecl_layout {
    enum { MOECL_LAYOUT_ROWS, MOECL_LAYOUT_PANELS } kind;
    size_t panel_columns; /* panels: a multiple of 16, at most MOECL_MAX_PANEL_COLUMNS */
    bool pairs;           /* panels of 16-bit types: of pairs; a gemm's own layout: those of bf16 are */
};

/* One group's matrices: N, K, and whether there are two of them. */
struct moecl_group_shape {
    size_t out, in;
    bool gated;
    moecl_type type; /* storage */
};

/* Panels a group has; 0 for rows. */
size_t moecl_layout_panels(const struct moecl_layout *layout, const struct moecl_group_shape *shape);
/* Bytes of one group; false on overflow. */
bool moecl_layout_group_bytes(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t *bytes);
/* Writes `matrix` (and `up`, where gated), converted to the storage type, to the group at `packed`, as rows
 * `first_row` on of the group's N. Other rows stay as they are; padding columns are zeroed. */
void moecl_layout_pack(const struct moecl_layout *layout, const struct moecl_group_shape *shape, size_t first_row,
                       const moecl_matrix *matrix, const moecl_matrix *up, void *packed);

#endif
