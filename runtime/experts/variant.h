/* SPDX-License-Identifier: Apache-2.0 */
/* variant.h - the interface of an expert-GEMM variant.
 *
 * A grouped GEMM multiplies the rows of every group (expert) by that group's weights. A variant does it in three steps,
 * which it queues on a chain:
 *
 *     group      once a permutation: what the variant must know of the groups' rows (a tile map, host-side counts)
 *     pack       gathers rows of x into the variant's own input form
 *     multiply   input form x weights -> rows in expert order, or the input form of the next product
 *
 * A variant is its tunable parameters and their constraints (data), the layout it reads, its sizes, and these calls.
 * Adding one: its own .c and .cl, and one row in variants.c. */
#ifndef MOECL_RUNTIME_VARIANT_H
#define MOECL_RUNTIME_VARIANT_H

#include <moecl/stages.h>

#include "device/launch.h"
#include "layout.h"
#include "parameters.h"

struct moecl_variant;

/* What a product writes, biases added. The values are those of cl/columns.cl and cl/clblast.cl. */
enum moecl_form {
    MOECL_FORM_ROWS = 0,             /* of one matrix, as it is        -> f32 [rows,N] */
    MOECL_FORM_ACTIVATED_ROWS = 1,   /* h of the matrices' function    -> f32 [rows,N] */
    MOECL_FORM_ACTIVATED_PACKED = 2, /* h of the matrices' function    -> the input form of a product with K = N */
    MOECL_FORM_LINEAR = 3            /* of two matrices, gate, then up -> f32 [rows,2N] */
};
/* The form of a public product of these matrices. */
enum moecl_form moecl_form_of(const moecl_matrices *matrices, moecl_product product);

/* A variant made ready for a device: its kernels and parameter values. Variants extend it. */
struct moecl_gemm {
    const struct moecl_variant *variant;
    struct moecl_context *context;
    unsigned values[MOECL_MAX_PARAMETERS];
    struct moecl_layout layout; /* the one it reads, with these values */
};

/* The order of rows. The values are those of cl/blocks.cl. */
enum moecl_order {
    MOECL_ORDER_BY_GROUP = 0,  /* sorted by group, of any number of tokens */
    MOECL_ORDER_BY_CHOICE = 1, /* one token's: row j is of group choices[j], and is not there if that is none */
    MOECL_ORDER_ALONE = 2      /* all of the only group, exactly `rows` */
};

/* Which rows are of which group. */
struct moecl_grouping {
    size_t groups;
    size_t rows;            /* upper bound */
    enum moecl_order order; /* BY_GROUP, or of a variant that takes any */
    moecl_buffer choices;   /* i32 [rows], BY_CHOICE */
    bool exact;             /* one group, of exactly `rows` rows: the host knows the offsets */
    moecl_buffer offsets;   /* u32 [groups+1], BY_GROUP */
    moecl_buffer map;       /* the variant's, map_bytes() of it, BY_GROUP */
    /* of variants that need the counts on the host */
    cl_uint host_offsets[MOECL_MAX_EXPERTS + 1];
    size_t longest;  /* rows of the group that has most */
    size_t capacity; /* rows of every group in a padded batch; 0: not padded */
};

struct moecl_pack {
    moecl_buffer x; /* rows of `depth` values of `type` */
    moecl_type type;
    size_t depth;
    moecl_buffer assignments; /* row r reads x's row assignments[r] / divisor */
    size_t divisor;           /* 0: row r reads row r, assignments are not looked at */
    moecl_buffer row_weights; /* f32, by assignment (by row where divisor is 0): row r is multiplied by
                               * row_weights[assignments[r]]; memory NULL: none */
    moecl_buffer packed;      /* out */
    bool pairs;               /* for a product in pairs: packed in bf16 */
    moecl_buffer flag;        /* u32: NaN or infinity in x raises the bits flag_bits; memory NULL: no check */
    cl_uint flag_bits;
};

struct moecl_multiply {
    const moecl_matrices *matrices;
    moecl_buffer packed; /* in: the variant's input form, depth = matrices' K; memory NULL: x is read */
    enum moecl_form form;
    moecl_buffer output;
    moecl_buffer scratch; /* scratch_bytes() of it */
    /* In place of packed rows, where the variant takes any order and the product is not in pairs. */
    moecl_buffer x; /* the token's K values of `type`, which all rows share */
    moecl_type type;
    moecl_buffer flag; /* u32: NaN or infinity in x raises the bits flag_bits */
    cl_uint flag_bits;
};

struct moecl_variant {
    const char *name;
    struct moecl_parameter_space space;
    size_t largest_part; /* elements of weights that one buffer may hold; 0: as many as the device allows */
    bool any_order;      /* its products take rows in any order, and one token's x that is not packed */
    bool (*suits)(const moecl_device_info *info); /* whether it is preferred on such a device; NULL: on every one */
    /* The values fitted to a device. */
    void (*fit)(const moecl_device_info *info, unsigned *values);
    moecl_status (*create)(struct moecl_context *context, const unsigned *values, struct moecl_gemm **gemm);
    /* From how many rows a group has on average it multiplies these types in pairs of steps, both read as bf16, in an
     * expert whose products have `steps` steps at least. 0, which is of bf16 by bf16 alone: always, so that h is kept
     * in it. NULL: never. */
    size_t (*pair_rows)(const struct moecl_gemm *gemm, moecl_type weights, moecl_type activations, size_t steps);
    /* Builds what serves products of these options' types and function, besides what is there. */
    moecl_status (*prepare)(struct moecl_gemm *gemm, const moecl_matrices_options *options, bool in_pairs);
    void (*destroy)(struct moecl_gemm *gemm);

    /* Bytes; rows is an upper bound. Monotone in rows. */
    size_t (*map_bytes)(const struct moecl_gemm *gemm, size_t groups, size_t rows);
    size_t (*packed_bytes)(const struct moecl_gemm *gemm, size_t groups, size_t rows, size_t depth);
    size_t (*scratch_bytes)(const struct moecl_gemm *gemm, const moecl_matrices *matrices, size_t rows);

    moecl_status (*group)(struct moecl_gemm *gemm, struct moecl_chain *chain, struct moecl_grouping *grouping);
    moecl_status (*pack)(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                         const struct moecl_pack *pack);
    moecl_status (*multiply)(struct moecl_gemm *gemm, struct moecl_chain *chain, const struct moecl_grouping *grouping,
                             const struct moecl_multiply *multiply);
};

extern const struct moecl_variant moecl_variant_vector;
extern const struct moecl_variant moecl_variant_tile;
extern const struct moecl_variant moecl_variant_clblast;

/* Makes the variant called `name` (NULL: the first of the table that the device serves) ready, with the parameters
 * `parameters` (NULL: fitted). MOECL_UNSUPPORTED when there is none of that name. */
moecl_status moecl_gemm_create(struct moecl_context *context, const char *name, const char *parameters,
                               struct moecl_gemm **gemm);
void moecl_gemm_destroy(struct moecl_gemm *gemm); /* NULL is allowed */
/* From how many rows a group has on average products of these types, of `steps` steps at least, are made in pairs. */
#define MOECL_NEVER_IN_PAIRS SIZE_MAX
size_t moecl_gemm_pair_rows(const struct moecl_gemm *gemm, moecl_type weights, moecl_type activations, size_t steps);

#endif
