/* SPDX-License-Identifier: Apache-2.0 */
/* stages.h - the stages of a layer, each by itself, on the caller's buffers.
 *
 *     x --moecl_route--> ids, weights --moecl_permute--> offsets, rows
 *       --moecl_grouped_gemm (gate and up)--> h --moecl_grouped_gemm (down)--> z --moecl_combine--> y
 *
 * Every function queues its work, returns, and takes a wait list and an event as OpenCL's own calls do. Workspaces are
 * the caller's; their size is a query. Kernels are built on the first call with a context, then kept. */
#ifndef MOECL_STAGES_H
#define MOECL_STAGES_H

#include <moecl/moecl.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------- routing -- */

/* Routes forward->tokens rows of forward->x with the layer's router into forward->routing and, where they are wanted,
 * writes the logits z (f32 [T,R], noise included; memory NULL: not wanted). forward->y is not looked at. Uses the
 * layer's workspace. */
MOECL_API moecl_status moecl_route(moecl_layer *layer, const moecl_forward *forward, moecl_buffer logits,
                                   cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event);

/* --------------------------------------------------------------------------------------- across the tokens -- */

/* Each expert takes the `capacity` tokens of its largest keys, ties to the lower token (Zhou 2022). The choices of
 * token t are ids[t][e] = e where expert e took it, else -1; their weights are the scores, else 0. */
typedef struct moecl_expert_choice_call {
    size_t tokens, experts; /* T, E */
    size_t capacity;        /* C; more than T is T, and 0 takes nothing */
    moecl_buffer scores;    /* f32 [T, stride], the first E columns; NaN is taken last */
    size_t stride;          /* floats from one row to the next */
    moecl_buffer logits;    /* f32 [T, logits_stride]: -infinity masks: it is taken last, its weight is 0; memory
                             * NULL: so do scores of -infinity */
    size_t logits_stride;
    moecl_buffer selection_bias; /* f32 [E]: key = score + bias; memory NULL: key = score */
    moecl_routing routing;       /* out: [T,E] */
    moecl_buffer workspace;      /* as the query says */
} moecl_expert_choice_call;

/* Bytes of workspace for moecl_expert_choice(); 0 where there are more tokens or experts than a layer may have. */
MOECL_API size_t moecl_expert_choice_workspace_size(size_t tokens, size_t experts);
MOECL_API moecl_status moecl_expert_choice(moecl_context *context, const moecl_expert_choice_call *call,
                                           cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                           cl_event *event);

/* Selection keys that are balanced over the tokens (BASE; Megatron-LM): with c[t][e] = exp(z[t][e] - max over the row
 * t) and d1 = 1,
 *
 *     `iterations` times:  d0[t] = 1 / (T * (sum over e of d1[e] * c[t][e] + 1e-8))
 *                          d1[e] = 1 / (E * (sum over t of d0[t] * c[t][e] + 1e-8))
 *     key[t][e] = d0[t] * c[t][e] * d1[e]
 *
 * An expert whose logit is -infinity (or NaN) has c = 0 and the key -infinity. */
typedef struct moecl_sinkhorn_call {
    size_t tokens, experts; /* T, E */
    size_t iterations;      /* 0: 10 */
    moecl_buffer logits;    /* f32 [T, stride], the first E columns */
    size_t stride;          /* floats from one row to the next */
    moecl_buffer keys;      /* out: f32 [T,E] */
    moecl_buffer workspace; /* as the query says */
} moecl_sinkhorn_call;

/* Bytes of workspace for moecl_sinkhorn(); 0 where there are more tokens or experts than a layer may have. */
MOECL_API size_t moecl_sinkhorn_workspace_size(size_t tokens, size_t experts);
MOECL_API moecl_status moecl_sinkhorn(moecl_context *context, const moecl_sinkhorn_call *call,
                                      cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                      cl_event *event);

/* ---------------------------------------------------------------------------------------------- statistics -- */

/* How evenly R outputs of a router are loaded: the load of one is how many choices fall on it. Every member has 4
 * bytes, and the device writes the struct as it is. The fractions are 0 where no choice is used. */
typedef struct moecl_load_statistics {
    cl_uint used;     /* choices: the sum of the loads */
    cl_uint unused;   /* choices of -1 (dropped, below a threshold, not taken by the expert), or out of range */
    cl_uint unserved; /* tokens without a used choice */
    cl_uint largest;  /* load */
    cl_uint idle;     /* outputs of load 0 */
    cl_float mean;    /* load: used / R */
    cl_float largest_over_mean; /* 1: even; R: all on one */
    cl_float entropy;           /* -sum p ln p, p = load / used; ln R: even, 0: all on one */
    cl_float squared_variation; /* CV^2: the mean of (load - mean)^2, over mean^2; 0: even */
} moecl_load_statistics;

typedef struct moecl_statistics_call {
    size_t tokens, slots; /* T, choices of a token: moecl_layer_slots() */
    size_t outputs;       /* R, at most MOECL_MAX_EXPERTS */
    moecl_buffer ids;     /* i32 [T, slots] */
    moecl_buffer load;    /* out: u32 [R] */
    moecl_buffer figures; /* out: one moecl_load_statistics */
} moecl_statistics_call;

/* tokens * slots must stay below 2^31. */
MOECL_API moecl_status moecl_statistics(moecl_context *context, const moecl_statistics_call *call,
                                        cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                        cl_event *event);
/* The same into host memory: load [R] and *figures. Waits for the queue. */
MOECL_API moecl_status moecl_statistics_read(moecl_context *context, size_t tokens, size_t slots, size_t outputs,
                                             moecl_buffer ids, uint32_t *load, moecl_load_statistics *figures);

/* --------------------------------------------------------------------------------------------- permutation -- */

/* The T*k assignments (token t, choice j) = t*k + j, stably sorted by expert. */
typedef struct moecl_permutation {
    moecl_buffer offsets;     /* u32 [E+1]: expert e has the rows offsets[e] to offsets[e+1]-1; offsets[0] = 0 */
    moecl_buffer assignments; /* u32 [T*k]: row -> assignment. Rows past offsets[E] are left undefined */
    moecl_buffer rows;        /* i32 [T*k]: assignment -> row; -1 where the expert id is out of range */
} moecl_permutation;

/* Bytes of workspace for moecl_permute(). 0 on overflow. */
MOECL_API size_t moecl_permute_workspace_size(size_t tokens, size_t top_k, size_t experts);
/* ids i32 [T,k]. tokens * top_k must stay below 2^31. */
MOECL_API moecl_status moecl_permute(moecl_context *context, size_t tokens, size_t top_k, size_t experts,
                                     moecl_buffer ids, const moecl_permutation *permutation, moecl_buffer workspace,
                                     cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event);

/* -------------------------------------------------------------------------------------------- grouped GEMM -- */

/* Weight matrices of G groups, packed on the device for one expert-GEMM variant. */
typedef struct moecl_matrices moecl_matrices;

typedef struct moecl_matrices_options {
    size_t groups;  /* G, 1 to MOECL_MAX_EXPERTS */
    size_t out;     /* N: rows of a weight matrix; of gate and of up alike where there are two */
    size_t in;      /* K: its columns */
    bool activated; /* the product is h of `function`, of two matrices a group (gate and up), or of one where
                     * it is ungated; else the plain product */
    moecl_expert_function function; /* of its `biased` nothing is read */
    bool biased;                    /* a bias [N] is added to each matrix's product */
    moecl_type weights;             /* storage */
    moecl_type activations;         /* type of the product's input rows; its output is f32 */
    const char *variant;            /* NULL: the plan decides */
    const char *parameters;         /* "name=value,..."; NULL: those fitted to the device */
} moecl_matrices_options;

/* Of one group. What the options do not have stays zero (data NULL). */
typedef struct moecl_group_weights {
    moecl_matrix matrix; /* [N,K]: gate, or the only one */
    moecl_matrix up;     /* [N,K] */
    moecl_matrix bias;   /* [1,N], of `matrix` */
    moecl_matrix up_bias;
} moecl_group_weights;

MOECL_API moecl_status moecl_matrices_create(moecl_context *context, const moecl_matrices_options *options,
                                             moecl_matrices **matrices);
MOECL_API void moecl_matrices_destroy(moecl_matrices *matrices); /* NULL is allowed */
/* Packs the matrices of a group. Blocks. */
MOECL_API moecl_status moecl_matrices_set(moecl_matrices *matrices, size_t group, const moecl_group_weights *weights);
MOECL_API const moecl_matrices_options *moecl_matrices_describe(const moecl_matrices *matrices);

/* The matrices that a layer packed, owned by the layer. */
typedef enum moecl_layer_part {
    MOECL_PART_ROUTER,         /* 1 group  [R+groups of a hierarchical router,H], then the shared gate's rows, then the
                                * noise's [R,H] where there are such */
    MOECL_PART_GATE_UP,        /* E groups [I,H], activated */
    MOECL_PART_DOWN,           /* E groups [H,I] */
    MOECL_PART_SHARED_GATE_UP, /* 1 group  [S,H], activated; NULL without a shared expert */
    MOECL_PART_SHARED_DOWN,    /* 1 group  [H,S]; NULL without a shared expert */
    MOECL_PART_LATENT_DOWN,    /* 1 group  [L,H]; NULL without a latent projection */
    MOECL_PART_LATENT_UP,      /* 1 group  [H,L]; NULL without a latent projection */
    MOECL_PART_COUNT
} moecl_layer_part;
MOECL_API moecl_matrices *moecl_layer_matrices(moecl_layer *layer, moecl_layer_part part);

/* What a product of activated matrices gives. */
typedef enum moecl_product {
    MOECL_PRODUCT_ACTIVATED, /* [rows,N] = h; the plain product where not activated */
    MOECL_PRODUCT_LINEAR     /* no activation: [rows,2N] = g, then u; [rows,N] of one matrix. Biases are added */
} moecl_product;

typedef struct moecl_grouped_gemm_call {
    size_t rows;        /* upper bound of offsets[G]; at most this many rows are read and written */
    moecl_buffer input; /* rows of K values, of the type `input_type` */
    moecl_type input_type;
    moecl_buffer assignments; /* u32 [rows]: row r of the product reads input row assignments[r] / divisor;
                               * memory NULL: row r reads row r */
    size_t divisor;           /* k, for the assignments of a permutation of tokens; 0 counts as 1 */
    moecl_buffer row_weights; /* f32, by assignment: multiplies the input row of assignments[r]; memory NULL: none */
    moecl_buffer offsets;     /* u32 [G+1] */
    moecl_product product;
    moecl_buffer output;    /* f32 [rows, N or 2N]; rows past offsets[G] are left untouched */
    moecl_buffer workspace; /* as the query says */
} moecl_grouped_gemm_call;

/* Bytes of workspace for a product over up to `rows` rows. 0 on overflow. */
MOECL_API size_t moecl_grouped_gemm_workspace_size(const moecl_matrices *matrices, size_t rows);
MOECL_API moecl_status moecl_grouped_gemm(moecl_matrices *matrices, const moecl_grouped_gemm_call *call,
                                          cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                          cl_event *event);

/* ------------------------------------------------------------------------------------------------- combine -- */

/* y[t] = c_0 * sum over j = 0..k-1, in that order, of weights[t,j] * z[rows[t*k+j]]  (rows of -1 give nothing; a zero
 * expert's id gives weights[t,j] * x[t]), then + bias, then + c_1 * shared[t] */
typedef struct moecl_combine_call {
    size_t tokens, top_k, hidden;
    moecl_buffer z;       /* f32 [rows, H], rows in expert order */
    moecl_buffer rows;    /* i32 [T*k], of the permutation; memory NULL: row t*k+j, none where ids has less than 0 */
    moecl_buffer weights; /* f32 [T,k]; memory NULL: 1 */
    size_t experts;       /* E */
    moecl_buffer ids;     /* i32 [T,k]; memory NULL: there are no zero experts nor unused choices */
    moecl_buffer x;       /* of zero experts: [T,H] of the type x_type */
    moecl_type x_type;
    moecl_buffer bias;   /* f32 [H]; memory NULL: none */
    moecl_buffer shared; /* f32 [T,H]; memory NULL: none */
    float shared_scale;  /* c_1 = shared_scale (0: 1), times the gate's coefficient; c_0 = 1 but for SOFTMAX */
    moecl_shared_gate shared_gate;
    moecl_buffer shared_logits; /* f32: token t's one (SIGMOID) or two (SOFTMAX) at t * shared_stride */
    size_t shared_stride;
    moecl_buffer y; /* out: [T,H] of the type `output_type` */
    moecl_type output_type;
} moecl_combine_call;

MOECL_API moecl_status moecl_combine(moecl_context *context, const moecl_combine_call *call,
                                     cl_uint num_events_in_wait_list, const cl_event *event_wait_list, cl_event *event);

#ifdef __cplusplus
}
#endif

#endif
