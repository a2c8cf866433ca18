/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - a layer's matrices out of a checkpoint's tensors.
 *
 * Experts' matrices are stored as one tensor an expert, [out,in]; or all in one, [E,out,in], [E,in,out] (transposed),
 * or the same with E and the next dimension in one. Gate and up may be in one tensor, out = 2I: one behind the other,
 * or by turns. All of these are strides of the same bytes: nothing is copied. */
#include "tensors.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "device/memory.h"
#include "json.h"

enum { NAME_SIZE = 512 };

struct finder {
    struct moecl_error *error;
    const char *directory;
    const struct moecl_checkpoint *checkpoint;
    const struct moecl_family *family;
    size_t layer;
    const moecl_layer_options *options;
};

/* -------------------------------------------------------------------------------------------------- tensors -- */

static void format_shape(const struct moecl_tensor *tensor, char text[NAME_SIZE])
{
    int length = snprintf(text, NAME_SIZE, "[");
    for (size_t i = 0; i < tensor->rank && i < MOECL_TENSOR_DIMENSIONS; i++)
        length += snprintf(text + length, (size_t)(NAME_SIZE - length), "%s%zu", i > 0 ? ", " : "", tensor->shape[i]);
    (void)snprintf(text + length, (size_t)(NAME_SIZE - length), "%s]",
                   tensor->rank > MOECL_TENSOR_DIMENSIONS ? ", ..." : "");
}

static moecl_status wrong_shape(const struct finder *finder, const struct moecl_tensor *tensor, const char *expected)
{
    char shape[NAME_SIZE];
    format_shape(tensor, shape);
    return moecl_error_set(finder->error, MOECL_BAD_FILE, "%s: tensor \"%s\" has the shape %s, expected %s",
                           tensor->file, tensor->name, shape, expected);
}

/* NULL where there is none. `single`: *single tells whether it is one expert's own. */
static const struct moecl_tensor *look_for(const struct finder *finder, enum moecl_role role, size_t expert,
                                           bool *single)
{
    const struct moecl_family *family = finder->family;
    char name[NAME_SIZE], other[NAME_SIZE];
    for (size_t i = 0; moecl_family_tensor_name(family, role, finder->layer, expert, i, name, sizeof name); i++) {
        const struct moecl_tensor *tensor = moecl_checkpoint_find(finder->checkpoint, name);
        if (!tensor)
            continue;
        (void)moecl_family_tensor_name(family, role, finder->layer, expert + 1, i, other, sizeof other);
        *single = strcmp(name, other) != 0;
        return tensor;
    }
    return NULL;
}

/* A tensor that must be there, of a type that can serve. */
static moecl_status find_tensor(const struct finder *finder, enum moecl_role role, size_t expert, bool *single,
                                const struct moecl_tensor **tensor, moecl_type *type)
{
    moecl_status status = MOECL_OK;
    char name[NAME_SIZE];

    *tensor = look_for(finder, role, expert, single);
    if (!*tensor) {
        if (!moecl_family_tensor_name(finder->family, role, finder->layer, expert, 0, name, sizeof name))
            FAIL(finder->error, MOECL_BAD_FILE, "%s: the family %s has no name for the tensor \"%s\"",
                 finder->directory, finder->family->model_types[0], moecl_role_name(role));
        FAIL(finder->error, MOECL_BAD_FILE, "%s: tensor \"%s\" is missing", finder->directory, name);
    }
    if ((*tensor)->quantised)
        FAIL(finder->error, MOECL_UNSUPPORTED,
             "%s: tensor \"%s\" is quantised (%s), which is not supported: expected F32, F16 or BF16", (*tensor)->file,
             (*tensor)->name, (*tensor)->dtype);
    if (!moecl_tensor_type(*tensor, type))
        FAIL(finder->error, MOECL_BAD_FILE, "%s: tensor \"%s\" has the dtype \"%s\", expected F32, F16 or BF16",
             (*tensor)->file, (*tensor)->name, QUOTE((*tensor)->dtype));
out:
    return status;
}

/* ------------------------------------------------------------------------------------------ experts' layouts -- */

/* Whether gate and up, or their biases, are in one tensor: it is there, or is the only way that the family knows. */
static bool is_fused(const struct finder *finder, enum moecl_role fused, enum moecl_role gate, size_t expert)
{
    bool single;
    return !finder->family->tensors[gate].names[0] || look_for(finder, fused, expert, &single);
}

/* Where a matrix [out,in] of an expert is. */
struct block {
    const char *data;
    moecl_type type;
    size_t out, in;
    bool transposed; /* [in,out] */
};

/* Whether a tensor of all experts' matrices [out,in] can be one of plain, of transposed ones. It may hold matrices for
 * zero experts, which nobody uses. */
static void fits(const struct moecl_tensor *tensor, const moecl_layer_options *options, size_t out, size_t in,
                 bool *plain, bool *transposed)
{
    const size_t *shape = tensor->shape, experts = options->experts;
    if (tensor->rank == 3) {
        const bool all = shape[0] == experts || shape[0] == experts + options->router.zero_experts;
        *plain = all && shape[1] == out && shape[2] == in;
        *transposed = all && shape[1] == in && shape[2] == out;
    } else {
        *plain = tensor->rank == 2 && shape[0] == experts * out && shape[1] == in;
        *transposed = tensor->rank == 2 && shape[0] == experts * in && shape[1] == out;
    }
}

/* Where a tensor's shape does not tell, that of the other one does: of gate and up in one, and of down, which are
 * stored alike, only one can be square. Other tensors are as the family says. */
static bool is_transposed(const struct finder *finder, enum moecl_role role)
{
    const moecl_layer_options *options = finder->options;
    const size_t width = options->latent ? options->latent : options->hidden, inner = options->intermediate;
    const bool down = role == MOECL_ROLE_DOWN;
    const enum moecl_role other = down ? MOECL_ROLE_GATE_UP : MOECL_ROLE_DOWN;
    bool single = false, plain = false, transposed = false;
    const struct moecl_tensor *tensor = NULL;

    if (down || role == MOECL_ROLE_GATE_UP)
        tensor = look_for(finder, other, 0, &single);
    if (tensor && !single)
        fits(tensor, options, down ? 2 * inner : width, down ? width : inner, &plain, &transposed);
    return plain != transposed ? transposed : finder->family->tensors[role].transposed;
}

static moecl_status find_block(const struct finder *finder, enum moecl_role role, size_t expert, size_t out, size_t in,
                               struct block *block)
{
    moecl_status status = MOECL_OK;
    const struct moecl_tensor *tensor;
    const size_t experts = finder->options->experts;
    const bool stored_transposed = finder->family->tensors[role].transposed;
    bool single = true, plain, transposed;
    char expected[NAME_SIZE];

    *block = (struct block){.out = out, .in = in};
    TRY(find_tensor(finder, role, expert, &single, &tensor, &block->type));
    if (single || role >= MOECL_ROLE_SHARED_GATE_UP) {
        const size_t rows = stored_transposed ? in : out, columns = stored_transposed ? out : in;
        (void)snprintf(expected, sizeof expected, "[%zu, %zu]", rows, columns);
        if (tensor->rank != 2 || tensor->shape[0] != rows || tensor->shape[1] != columns)
            TRY(wrong_shape(finder, tensor, expected));
        block->transposed = stored_transposed;
        block->data = tensor->data;
        goto out;
    }
    fits(tensor, finder->options, out, in, &plain, &transposed);
    (void)snprintf(expected, sizeof expected, "[%zu, %zu, %zu] or [%zu, %zu, %zu]", experts, out, in, experts, in, out);
    if (!plain && !transposed)
        TRY(wrong_shape(finder, tensor, expected));
    block->transposed = plain && transposed ? is_transposed(finder, role) : transposed;
    block->data = tensor->data + expert * out * in * moecl_type_size(block->type);
out:
    return status;
}

/* Rows first, first + step, ... of a block, `rows` of them. */
static moecl_matrix rows_of(const struct block *block, size_t first, size_t step, size_t rows)
{
    const size_t row_stride = block->transposed ? 1 : block->in, column_stride = block->transposed ? block->out : 1;
    moecl_matrix matrix = {.data = block->data + first * row_stride * moecl_type_size(block->type),
                           .type = block->type,
                           .rows = rows,
                           .columns = block->in};
    if (block->transposed || step > 1) {
        matrix.row_stride = row_stride * step;
        matrix.column_stride = column_stride;
    }
    return matrix;
}

/* --------------------------------------------------------------------------------------------------- vectors -- */

/* A tensor [length], or [count,length] of which this is the `index`-th. */
static moecl_status find_vector(const struct finder *finder, enum moecl_role role, size_t expert, size_t length,
                                moecl_matrix *vector)
{
    moecl_status status = MOECL_OK;
    const struct moecl_tensor *tensor;
    const bool shared = role >= MOECL_ROLE_SHARED_GATE_UP;
    const bool of_expert = role >= MOECL_ROLE_GATE_UP && !shared;
    bool single = true;
    char expected[NAME_SIZE];
    moecl_type type = MOECL_F32;

    TRY(find_tensor(finder, role, expert, &single, &tensor, &type));
    const size_t *shape = tensor->shape, experts = finder->options->experts;
    if (of_expert && !single) {
        (void)snprintf(expected, sizeof expected, "[%zu, %zu]", experts, length);
        if (tensor->rank != 2 || shape[0] != experts || shape[1] != length)
            TRY(wrong_shape(finder, tensor, expected));
    } else {
        (void)snprintf(expected, sizeof expected, "[%zu]", length);
        if (!(tensor->rank == 1 && shape[0] == length) &&
            !(tensor->rank == 2 && shape[0] * shape[1] == length && (shape[0] == 1 || shape[1] == 1)))
            TRY(wrong_shape(finder, tensor, expected));
        expert = 0;
    }
    *vector = (moecl_matrix){
        .data = tensor->data + expert * length * moecl_type_size(type), .type = type, .rows = 1, .columns = length};
out:
    return status;
}

/* `columns` elements from `first` on, `step` apart. */
static moecl_matrix columns_of(const moecl_matrix *vector, size_t first, size_t step, size_t columns)
{
    moecl_matrix part = *vector;
    part.data = (const char *)vector->data + first * moecl_type_size(vector->type);
    part.columns = columns;
    if (step > 1) {
        part.row_stride = vector->columns;
        part.column_stride = step;
    }
    return part;
}

/* ------------------------------------------------------------------------------------------------- an expert -- */

/* Roles of an expert's tensors, counted from MOECL_ROLE_GATE_UP or MOECL_ROLE_SHARED_GATE_UP on. */
enum { GATE_UP, GATE, UP, DOWN, GATE_UP_BIAS, GATE_BIAS, UP_BIAS, DOWN_BIAS };

struct wanted {
    enum moecl_role first;
    size_t expert, width, intermediate;
    const moecl_expert_function *function;
};

static enum moecl_role role_of(const struct wanted *wanted, int which)
{
    return (enum moecl_role)((int)wanted->first + which);
}

static moecl_status find_gate_and_up(const struct finder *finder, const struct wanted *wanted,
                                     moecl_expert_weights *weights)
{
    moecl_status status = MOECL_OK;
    const size_t inner = wanted->intermediate, width = wanted->width, expert = wanted->expert;
    const enum moecl_role fused = role_of(wanted, GATE_UP);
    const bool interleaved = finder->family->tensors[fused].interleaved;
    struct block block;

    if (!wanted->function->ungated && is_fused(finder, fused, role_of(wanted, GATE), expert)) {
        TRY(find_block(finder, fused, expert, 2 * inner, width, &block));
        weights->gate = rows_of(&block, 0, interleaved ? 2 : 1, inner);
        weights->up = rows_of(&block, interleaved ? 1 : inner, interleaved ? 2 : 1, inner);
        goto out;
    }
    if (!wanted->function->ungated) {
        TRY(find_block(finder, role_of(wanted, GATE), expert, inner, width, &block));
        weights->gate = rows_of(&block, 0, 1, inner);
    }
    TRY(find_block(finder, role_of(wanted, UP), expert, inner, width, &block));
    weights->up = rows_of(&block, 0, 1, inner);
out:
    return status;
}

static moecl_status find_biases(const struct finder *finder, const struct wanted *wanted, moecl_expert_weights *weights)
{
    moecl_status status = MOECL_OK;
    const size_t inner = wanted->intermediate, expert = wanted->expert;
    const enum moecl_role fused = role_of(wanted, GATE_UP_BIAS);
    const bool interleaved = finder->family->tensors[role_of(wanted, GATE_UP)].interleaved;
    moecl_matrix both;

    TRY(find_vector(finder, role_of(wanted, DOWN_BIAS), expert, wanted->width, &weights->down_bias));
    if (!wanted->function->ungated && is_fused(finder, fused, role_of(wanted, GATE_BIAS), expert)) {
        TRY(find_vector(finder, fused, expert, 2 * inner, &both));
        weights->gate_bias = columns_of(&both, 0, interleaved ? 2 : 1, inner);
        weights->up_bias = columns_of(&both, interleaved ? 1 : inner, interleaved ? 2 : 1, inner);
        goto out;
    }
    if (!wanted->function->ungated)
        TRY(find_vector(finder, role_of(wanted, GATE_BIAS), expert, inner, &weights->gate_bias));
    TRY(find_vector(finder, role_of(wanted, UP_BIAS), expert, inner, &weights->up_bias));
out:
    return status;
}

static moecl_status find_expert(const struct finder *finder, const struct wanted *wanted, moecl_expert_weights *weights)
{
    moecl_status status = MOECL_OK;
    struct block block;

    TRY(find_gate_and_up(finder, wanted, weights));
    TRY(find_block(finder, role_of(wanted, DOWN), wanted->expert, wanted->width, wanted->intermediate, &block));
    weights->down = rows_of(&block, 0, 1, wanted->width);
    if (wanted->function->biased)
        TRY(find_biases(finder, wanted, weights));
out:
    return status;
}

static moecl_status find_experts(const struct finder *finder, moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = finder->options;
    struct wanted wanted = {.first = MOECL_ROLE_GATE_UP,
                            .width = options->latent ? options->latent : options->hidden,
                            .intermediate = options->intermediate,
                            .function = &options->function};
    moecl_expert_weights *experts = moecl_allocate(options->experts, sizeof *experts);

    if (!experts)
        FAIL(finder->error, MOECL_OUT_OF_HOST_MEMORY, "no memory for %zu experts' matrices", options->experts);
    weights->experts = experts;
    for (wanted.expert = 0; wanted.expert < options->experts; wanted.expert++)
        TRY(find_expert(finder, &wanted, &experts[wanted.expert]));
    if (options->shared_intermediate > 0)
        TRY(find_expert(finder,
                        &(struct wanted){.first = MOECL_ROLE_SHARED_GATE_UP,
                                         .width = options->hidden,
                                         .intermediate = options->shared_intermediate,
                                         .function = &options->shared_function},
                        &weights->shared));
out:
    return status;
}

/* ---------------------------------------------------------------------------------------------- all the rest -- */

static moecl_status find_matrix(const struct finder *finder, enum moecl_role role, size_t rows, size_t columns,
                                moecl_matrix *matrix)
{
    moecl_status status = MOECL_OK;
    const struct moecl_tensor *tensor;
    const bool transposed = finder->family->tensors[role].transposed;
    moecl_type type = MOECL_F32;
    char expected[NAME_SIZE];
    bool single;

    TRY(find_tensor(finder, role, 0, &single, &tensor, &type));
    const size_t stored_rows = transposed ? columns : rows, stored_columns = transposed ? rows : columns;
    (void)snprintf(expected, sizeof expected, "[%zu, %zu]", stored_rows, stored_columns);
    const bool row = rows == 1 && tensor->rank == 1 && tensor->shape[0] == columns; /* GGUF has no [1,n] */
    if (!row && (tensor->rank != 2 || tensor->shape[0] != stored_rows || tensor->shape[1] != stored_columns))
        TRY(wrong_shape(finder, tensor, expected));
    *matrix = (moecl_matrix){tensor->data, type, rows, columns, transposed ? 1 : 0, transposed ? rows : 0};
out:
    return status;
}

static moecl_status find_matrices(const struct finder *finder, moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;
    const moecl_layer_options *options = finder->options;
    const size_t hidden = options->hidden, outputs = options->experts + options->router.zero_experts;
    const size_t groups = options->router.score == MOECL_SCORE_HIERARCHICAL ? options->router.groups : 0;

    TRY(find_matrix(finder, MOECL_ROLE_ROUTER, outputs + groups, hidden, &weights->router));
    if (options->router.noise)
        TRY(find_matrix(finder, MOECL_ROLE_NOISE, outputs, hidden, &weights->noise));
    if (options->shared_gate != MOECL_SHARED_GATE_NONE)
        TRY(find_matrix(finder, MOECL_ROLE_SHARED_SCALE, options->shared_gate == MOECL_SHARED_GATE_SOFTMAX ? 2 : 1,
                        hidden, &weights->shared_gate));
    if (options->latent > 0) {
        TRY(find_matrix(finder, MOECL_ROLE_LATENT_DOWN, options->latent, hidden, &weights->latent_down));
        TRY(find_matrix(finder, MOECL_ROLE_LATENT_UP, hidden, options->latent, &weights->latent_up));
    }
out:
    return status;
}

static moecl_status find_vectors(const struct finder *finder, moecl_layer_weights *weights)
{
    static const enum moecl_role roles[MOECL_VECTOR_COUNT] = {
        [MOECL_VECTOR_ROUTER_BIAS] = MOECL_ROLE_ROUTER_BIAS,
        [MOECL_VECTOR_SELECTION_BIAS] = MOECL_ROLE_SELECTION_BIAS,
        [MOECL_VECTOR_EXPERT_SCALE] = MOECL_ROLE_EXPERT_SCALE,
        [MOECL_VECTOR_ROUTER_NORM] = MOECL_ROLE_ROUTER_NORM,
        [MOECL_VECTOR_EXPERT_NORM] = MOECL_ROLE_EXPERT_NORM,
        [MOECL_VECTOR_OUTPUT_BIAS] = MOECL_ROLE_OUTPUT_BIAS,
    };
    moecl_status status = MOECL_OK;
    for (size_t i = 0; i < MOECL_VECTOR_COUNT; i++) {
        const size_t length = moecl_vector_length(finder->options, (moecl_vector)i);
        if (length > 0)
            TRY(find_vector(finder, roles[i], 0, length, &weights->vectors[i]));
    }
out:
    return status;
}

/* Copied, since files hold it as 64-bit numbers. */
static moecl_status copy_table(const struct finder *finder, const struct moecl_tensor *tensor, int32_t *table)
{
    const size_t outputs = finder->options->experts + finder->options->router.zero_experts;
    const bool wide = strcmp(tensor->dtype, "I64") == 0;
    for (size_t i = 0; i < tensor->shape[0] * tensor->shape[1]; i++) {
        int64_t id = 0;
        int32_t narrow = 0;
        memcpy(&narrow, tensor->data + i * 4 * (wide ? 2 : 1), sizeof narrow);
        id = narrow;
        if (wide)
            memcpy(&id, tensor->data + i * 8, sizeof id);
        if (id < 0 || (uint64_t)id >= outputs)
            return moecl_error_set(finder->error, MOECL_BAD_FILE,
                                   "%s: tensor \"%s\": entry %zu is %lld, expected 0 to %zu", tensor->file,
                                   tensor->name, i, (long long)id, outputs - 1);
        table[i] = (int32_t)id;
    }
    return MOECL_OK;
}

static moecl_status find_table(const struct finder *finder, size_t *rows, moecl_layer_weights *weights)
{
    moecl_status status = MOECL_OK;
    const size_t top_k = finder->options->top_k, largest = INT32_MAX;
    char name[NAME_SIZE] = "table", expected[NAME_SIZE];
    bool single;
    const struct moecl_tensor *tensor = look_for(finder, MOECL_ROLE_TABLE, 0, &single);

    (void)moecl_family_tensor_name(finder->family, MOECL_ROLE_TABLE, finder->layer, 0, 0, name, sizeof name);
    if (!tensor)
        FAIL(finder->error, MOECL_BAD_FILE, "%s: tensor \"%s\" is missing", finder->directory, name);
    if (strcmp(tensor->dtype, "I64") != 0 && strcmp(tensor->dtype, "I32") != 0)
        FAIL(finder->error, MOECL_BAD_FILE, "%s: tensor \"%s\" has the dtype \"%s\", expected I64 or I32", tensor->file,
             tensor->name, QUOTE(tensor->dtype));
    (void)snprintf(expected, sizeof expected, "[tokens, %zu]", top_k);
    if (tensor->rank != 2 || tensor->shape[0] < 1 || tensor->shape[0] > largest || tensor->shape[1] != top_k)
        TRY(wrong_shape(finder, tensor, expected));
    int32_t *table = moecl_allocate(tensor->shape[0], top_k * sizeof *table);
    if (!table)
        FAIL(finder->error, MOECL_OUT_OF_HOST_MEMORY, "no memory for a table of %zu tokens", tensor->shape[0]);
    weights->table = table;
    TRY(copy_table(finder, tensor, table));
    *rows = tensor->shape[0];
out:
    return status;
}

moecl_status moecl_tensors_find(struct moecl_error *error, const char *directory,
                                const struct moecl_checkpoint *checkpoint, const struct moecl_family *family,
                                size_t layer, moecl_layer_options *options, moecl_layer_weights *weights)
{
    const struct finder finder = {error, directory, checkpoint, family, layer, options};
    moecl_status status = MOECL_OK;

    TRY(find_matrices(&finder, weights));
    TRY(find_vectors(&finder, weights));
    TRY(find_experts(&finder, weights));
    if (options->router.selection == MOECL_SELECTION_TABLE)
        TRY(find_table(&finder, &options->router.table_rows, weights));
out:
    return status;
}
