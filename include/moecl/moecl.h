/* SPDX-License-Identifier: Apache-2.0 */
/* moecl.h - Mixture-of-Experts layers on any OpenCL device. This header is the manual.
 *
 * What a layer computes, for every token x_t of x [T,H]:
 *
 *     z_t          = W_router x_t                               logits [E], in fp32
 *     p_t          = score(z_t)                                 softmax, sigmoid, ...
 *     ids_t        = the k experts of largest p_t, ties to the lower index
 *     w_tj         = p_t[ids_tj], normalised as the router says
 *     expert_e(x)  = W_down,e ( act(W_gate,e x) * (W_up,e x) )
 *     y_t          = sum_j w_tj expert_{ids_tj}(x_t)  [ + sigmoid(g . x_t) shared(x_t) ]
 *
 * Each line has options: moecl_router says how tokens find their experts (the grammar of routers), and
 * moecl_expert_function what an expert computes. Zero is the plainest choice of every option.
 *
 * Shapes: T tokens, H hidden size, E experts, k experts per token, I expert intermediate size.
 * All matrices are row-major; a weight matrix is [out, in], as checkpoints store it.
 *
 * Three ways to use it, in order of difficulty:
 *   1. A layer out of a checkpoint:   model.h   moecl_model_open, moecl_layer_load; then 2.
 *   2. A layer of your own weights:   here      moecl_layer_create, moecl_layer_set_*, moecl_layer_forward
 *   3. Single stages on your buffers: stages.h  moecl_route, moecl_permute, moecl_grouped_gemm, moecl_combine
 * Beside them: reference.h (the same layer in double precision, the oracle) and measure.h (what the device can do).
 *
 * Errors are values: every function that can fail returns a moecl_status, and moecl_context_error() holds a sentence
 * that names the call, the kernel, the OpenCL code and the shape. Arguments are checked before any work is queued;
 * after an error, objects are as they were before the call. The library never prints, exits or aborts.
 *
 * Threads: a moecl_context and everything made from it belong to one thread at a time. Different contexts are
 * independent of each other. There is no global mutable state. */
#ifndef MOECL_MOECL_H
#define MOECL_MOECL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <CL/cl.h>

#include <moecl/export.h>
#include <moecl/version.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------- version -- */

/* The version of the library that runs, as MOECL_VERSION_STRING (version.h) is that of the header compiled against.
 * "MAJOR.MINOR.PATCH", static storage. */
MOECL_API const char *moecl_version(void);

/* -------------------------------------------------------------------------------------------------- status -- */

#define MOECL_STATUS_LIST(X)                                                                                           \
    X(OK, "success")                                                                                                   \
    X(INVALID_ARGUMENT, "an argument is wrong")                                                                        \
    X(OUT_OF_HOST_MEMORY, "the host is out of memory")                                                                 \
    X(OUT_OF_DEVICE_MEMORY, "the device is out of memory")                                                             \
    X(NO_PLATFORM, "no OpenCL platform is installed")                                                                  \
    X(NO_DEVICE, "no OpenCL device matches")                                                                           \
    X(AMBIGUOUS_DEVICE, "more than one OpenCL device matches")                                                         \
    X(DEVICE_TOO_SMALL, "the device cannot hold this")                                                                 \
    X(UNSUPPORTED, "not supported")                                                                                    \
    X(BUILD_FAILED, "an OpenCL program does not build")                                                                \
    X(OPENCL_ERROR, "an OpenCL call failed")                                                                           \
    X(NOT_FINITE, "NaN or infinity in the data")                                                                       \
    X(FILE_ERROR, "a file cannot be read or written")                                                                  \
    X(BAD_FILE, "a file's content is wrong")                                                                           \
    X(UNKNOWN_MODEL, "the model is of no known family")

typedef enum moecl_status {
#define MOECL_STATUS_ENUM(name, message) MOECL_##name,
    MOECL_STATUS_LIST(MOECL_STATUS_ENUM)
#undef MOECL_STATUS_ENUM
} moecl_status;

/* "MOECL_OK" and so on; static storage. An unknown value gives "MOECL_UNKNOWN_STATUS". */
MOECL_API const char *moecl_status_name(moecl_status status);
/* The general meaning of a status, in English; static storage. */
MOECL_API const char *moecl_status_message(moecl_status status);

/* --------------------------------------------------------------------------------------------------- types -- */

/* Storage types of weights and activations. Sums are always accumulated in fp32; what is kept between an expert's two
 * products is f32, or bf16 where weights and activations both are and the device has instructions for it. */
#define MOECL_TYPE_LIST(X)                                                                                             \
    X(F32, "f32", 4)   /* IEEE binary32 */                                                                             \
    X(F16, "f16", 2)   /* IEEE binary16 */                                                                             \
    X(BF16, "bf16", 2) /* the upper half of binary32 */

typedef enum moecl_type {
#define MOECL_TYPE_ENUM(name, text, bytes) MOECL_##name,
    MOECL_TYPE_LIST(MOECL_TYPE_ENUM)
#undef MOECL_TYPE_ENUM
} moecl_type;

MOECL_API size_t moecl_type_size(moecl_type type);                       /* bytes an element, 0 if unknown */
MOECL_API const char *moecl_type_name(moecl_type type);                  /* "f32", ...; "unknown" */
MOECL_API bool moecl_type_from_name(const char *name, moecl_type *type); /* false: no such type, *type untouched */

/* Converts `count` elements; f32 to f16 or bf16 rounds to nearest even, NaN stays NaN. The ranges may not overlap. */
MOECL_API void moecl_convert(const void *from, moecl_type from_type, void *to, moecl_type to_type, size_t count);

/* A place on the device: `offset` bytes into `memory`. `offset` must be a multiple of the element's size. */
typedef struct moecl_buffer {
    cl_mem memory;
    size_t offset; /* bytes */
} moecl_buffer;

/* A matrix [rows, columns] in host memory, of any alignment. Borrowed for the call. Element (r, c) is element
 * r * row_stride + c * column_stride of `data`; both strides 0: row-major without gaps. */
typedef struct moecl_matrix {
    const void *data;
    moecl_type type;
    size_t rows;
    size_t columns;
    size_t row_stride, column_stride; /* elements */
} moecl_matrix;

/* ------------------------------------------------------------------------------------------------- context -- */

/* A context holds the error sentence, the caches and, once a device is opened, the OpenCL objects.
 * It must outlive every object made with it, and belongs to one thread at a time. */
typedef struct moecl_context moecl_context;

/* Makes a context without a device: enough to list devices and to read models.
 * MOECL_OUT_OF_HOST_MEMORY is the only failure; *context is then NULL. */
MOECL_API moecl_status moecl_context_create(moecl_context **context);
/* Releases the context and what it retained. NULL is allowed. */
MOECL_API void moecl_context_destroy(moecl_context *context);
/* The sentence of the last failure in this context, "" if none. Valid until the next call with the context.
 * NULL gives the sentence for a context that could not be made. */
MOECL_API const char *moecl_context_error(const moecl_context *context);

/* Opens a device. `device` is
 *   "P:D"   platform P, device D, as moecl_device_list() numbers them, or
 *   a case-insensitive part of "platform name / device name", or
 *   NULL or "": the environment's MOECL_DEVICE if set, else the first GPU, else the first accelerator, else the CPU.
 * Makes an OpenCL context and an in-order queue of its own. On Linux, PoCL's threads, which all contexts share, are
 * bound to a processor each if the calling thread may use exactly as many processors: woken together after a pause,
 * they would otherwise share one for a while. Not if the environment has POCL_AFFINITY.
 * MOECL_NO_PLATFORM, MOECL_NO_DEVICE, MOECL_AMBIGUOUS_DEVICE (the sentence lists the matches),
 * MOECL_INVALID_ARGUMENT when a device is open already. */
MOECL_API moecl_status moecl_context_open(moecl_context *context, const char *device);
/* Uses the caller's OpenCL objects instead; they are retained until the context is destroyed. The queue must belong
 * to `cl` and `device`; in-order and out-of-order queues work alike. */
MOECL_API moecl_status moecl_context_adopt(moecl_context *context, cl_context cl, cl_device_id device,
                                           cl_command_queue queue);
/* The OpenCL objects in use, not retained for the caller; NULL before a device is open. */
MOECL_API cl_context moecl_context_cl(const moecl_context *context);
MOECL_API cl_device_id moecl_context_device(const moecl_context *context);
MOECL_API cl_command_queue moecl_context_queue(const moecl_context *context);

/* Where built programs and probe results are kept: a directory, made when first needed, or "off". NULL: the
 * environment's MOECL_CACHE_DIR (a directory or "off"), else $XDG_CACHE_HOME/moecl, else $HOME/.cache/moecl.
 * Takes effect for what is built afterwards. Every failure of the cache is a miss, never an error. */
MOECL_API moecl_status moecl_context_set_cache(moecl_context *context, const char *directory);

/* ------------------------------------------------------------------------------------------------- devices -- */

typedef struct moecl_device_info {
    /* asked of the driver */
    unsigned platform_index, device_index; /* the P and D of "P:D" */
    char platform[128], name[256], vendor[128], driver[128];
    char version[128], c_version[128]; /* CL_DEVICE_VERSION, CL_DEVICE_OPENCL_C_VERSION */
    cl_device_type type;
    unsigned compute_units;
    unsigned native_floats;                               /* native vector width, in floats */
    uint64_t global_memory, max_allocation, local_memory; /* bytes */
    bool local_is_global;                                 /* local memory is ordinary memory */
    size_t max_work_group;                                /* work-items */
    bool out_of_order;                                    /* offers out-of-order queues */
    /* found by compiling and running a probe; all false where `probed` is false */
    bool probed;
    bool fp16;        /* half arithmetic */
    bool fp64;        /* double arithmetic */
    bool bf16;        /* conversion instructions between float and bfloat16 */
    bool integer_dot; /* dot product of packed 8-bit integers */
    bool avx512_bf16; /* x86's dot product of bf16 pairs */
    bool amx_bf16;    /* x86's product of tiles of them */
    bool subgroups;
    uint32_t subgroup_sizes; /* bit n: sub-groups of 2^n work-items can be had */
} moecl_device_info;

/* Lists the devices of all platforms, without probing: up to `capacity` entries are written, *count is how many there
 * are. Platforms without devices are skipped but keep their number. MOECL_NO_PLATFORM, MOECL_NO_DEVICE when there is
 * nothing to list. */
MOECL_API moecl_status moecl_device_list(moecl_context *context, moecl_device_info *devices, size_t capacity,
                                         size_t *count);
/* The open device. With `probe`, what only running can tell is found too (cached after the first time). */
MOECL_API moecl_status moecl_device_describe(moecl_context *context, bool probe, moecl_device_info *info);

/* ------------------------------------------------------------------------------------------------- a layer -- */

enum {
    MOECL_MAX_EXPERTS = 1024,
    MOECL_MAX_TOP_K = 32,
    MOECL_MAX_TOKENS = 1 << 20 /* in one call */
};

/* ------------------------------------------------------------------------------------------------ a router -- */

/* A router is a grammar. For token t, in this order; "vector" is one given by moecl_layer_set_vector():
 *
 *     z         = W_router x'  [+ vector ROUTER_BIAS]      logits [R], R = E + zero_experts; fp32
 *     z         = softcap * tanh(z / softcap)              where softcap > 0
 *     z        += N(0,1) * softplus(W_noise x')            in noisy passes, where `noise`
 *     s         = score(z)                                 [R]
 *     key       = s [+ vector SELECTION_BIAS]              picks, never mixes
 *     groups    of R / groups neighbours each: the top_groups groups of largest group score stay
 *     ids       = the k largest keys, in falling order, ties to the lower index     (or `selection` says otherwise)
 *     weights   = `weight` of each id, normalised, times scale, times vector EXPERT_SCALE[id]
 *     capacity  drops what an expert has no room for: its id becomes -1, its weight 0
 *
 * A choice that is not used (dropped, below a threshold, beyond the top-p mass) has id -1 and weight 0. Ids of E and
 * more are the zero experts. An expert whose logit is -infinity is masked: it is chosen last, and its weight is 0. x'
 * is x, or its norm where moecl_layer_options.router_input says so. */

/* The score of expert e. */
#define MOECL_SCORE_LIST(X)                                                                                            \
    X(SOFTMAX, "softmax")             /* exp(z_e) / sum exp(z) */                                                      \
    X(SIGMOID, "sigmoid")             /* 1 / (1 + exp(-z_e)) (DeepSeek-V3) */                                          \
    X(SQRT_SOFTPLUS, "sqrt-softplus") /* sqrt(log(1 + exp(z_e))) (DeepSeek-V4) */                                      \
    X(LOGIT, "logit")                 /* z_e */                                                                        \
    X(SPARSEMIXER, "sparsemixer")     /* Phi-3.5-MoE; see `jitter` below */                                            \
    X(HIERARCHICAL, "hierarchical")   /* two levels (Jordan, Jacobs 1994; Shazeer 2017): softmax over the groups'      \
                                       * logits times the softmax within the group. The router has R + groups rows,    \
                                       * the groups' last; the group score is the group's probability */
typedef enum moecl_score {
#define MOECL_SCORE_ENUM(name, text) MOECL_SCORE_##name,
    MOECL_SCORE_LIST(MOECL_SCORE_ENUM)
#undef MOECL_SCORE_ENUM
} moecl_score;

/* Who is chosen. */
#define MOECL_SELECTION_LIST(X)                                                                                        \
    X(TOP_K, "top-k")                                                                                                  \
    X(TABLE, "table")                 /* ids = table[token id] (hash layers, Roller 2021; DeepSeek-V4) */              \
    X(EXPERT_CHOICE, "expert-choice") /* each expert takes its C best tokens, C = ceil(T*k/E), ties to the lower       \
                                       * token (Zhou 2022); a token has 0 to E experts. A pass's T counts, so its      \
                                       * result depends on all of its tokens; so it is with the next one */            \
    X(SINKHORN, "sinkhorn")           /* top-k of the keys that `sinkhorn_iterations` make balanced over the tokens    \
                                       * (BASE, Lewis 2021; Clark 2022; Megatron-LM) */
typedef enum moecl_selection {
#define MOECL_SELECTION_ENUM(name, text) MOECL_SELECTION_##name,
    MOECL_SELECTION_LIST(MOECL_SELECTION_ENUM)
#undef MOECL_SELECTION_ENUM
} moecl_selection;

/* Where routing weights come from. */
#define MOECL_WEIGHT_LIST(X)                                                                                           \
    X(SCORE, "score")     /* s_e, without the selection bias */                                                        \
    X(SOFTMAX, "softmax") /* softmax over the selected z */                                                            \
    X(SIGMOID, "sigmoid") /* sigmoid of the selected z */                                                              \
    X(ONE, "one")         /* 1 */
typedef enum moecl_weight {
#define MOECL_WEIGHT_ENUM(name, text) MOECL_WEIGHT_##name,
    MOECL_WEIGHT_LIST(MOECL_WEIGHT_ENUM)
#undef MOECL_WEIGHT_ENUM
} moecl_weight;

/* How the weights of a token are normalised. */
#define MOECL_NORMALISATION_LIST(X)                                                                                    \
    X(NONE, "none")                                                                                                    \
    X(SUM, "sum")               /* w / (sum w + epsilon) */                                                            \
    X(LARGER_SUM, "larger-sum") /* w / max(sum w, epsilon) */                                                          \
    X(POWER, "power")           /* w / (sum |w|^power)^(1/power) (DBRX) */
typedef enum moecl_normalisation {
#define MOECL_NORMALISATION_ENUM(name, text) MOECL_NORMALISATION_##name,
    MOECL_NORMALISATION_LIST(MOECL_NORMALISATION_ENUM)
#undef MOECL_NORMALISATION_ENUM
} moecl_normalisation;

/* The score of a group, from the keys of its experts. */
#define MOECL_GROUP_SCORE_LIST(X)                                                                                      \
    X(LARGEST, "largest")                                                                                              \
    X(SUM_OF_TWO, "sum-of-two") /* of the two largest */
typedef enum moecl_group_score {
#define MOECL_GROUP_SCORE_ENUM(name, text) MOECL_GROUP_SCORE_##name,
    MOECL_GROUP_SCORE_LIST(MOECL_GROUP_SCORE_ENUM)
#undef MOECL_GROUP_SCORE_ENUM
} moecl_group_score;

/* The key of an expert whose group lost. */
#define MOECL_GROUP_MASK_LIST(X)                                                                                       \
    X(INFINITE, "infinite") /* -infinity (DeepSeek-V3) */                                                              \
    X(ZERO, "zero")         /* 0 (DeepSeek-V2): it may still beat a negative key */
typedef enum moecl_group_mask {
#define MOECL_GROUP_MASK_ENUM(name, text) MOECL_GROUP_MASK_##name,
    MOECL_GROUP_MASK_LIST(MOECL_GROUP_MASK_ENUM)
#undef MOECL_GROUP_MASK_ENUM
} moecl_group_mask;

/* How many rows an expert may have. */
#define MOECL_CAPACITY_LIST(X)                                                                                         \
    X(NONE, "none")         /* dropless */                                                                             \
    X(FIXED, "fixed")       /* floor(value) */                                                                         \
    X(FACTOR, "factor")     /* ceil(T * k / E * value) */                                                              \
    X(FRACTION, "fraction") /* ceil(T * value) */
typedef enum moecl_capacity_kind {
#define MOECL_CAPACITY_ENUM(name, text) MOECL_CAPACITY_##name,
    MOECL_CAPACITY_LIST(MOECL_CAPACITY_ENUM)
#undef MOECL_CAPACITY_ENUM
} moecl_capacity_kind;

/* Who has an expert's room first. */
#define MOECL_CAPACITY_ORDER_LIST(X)                                                                                   \
    X(POSITION, "position")       /* rising t * k + j (Switch) */                                                      \
    X(CHOICE, "choice")           /* all first choices, then all second ones, ...; each by rising t (GShard, NLLB) */  \
    X(PROBABILITY, "probability") /* falling weight, ties by rising t * k + j */
typedef enum moecl_capacity_order {
#define MOECL_CAPACITY_ORDER_ENUM(name, text) MOECL_CAPACITY_ORDER_##name,
    MOECL_CAPACITY_ORDER_LIST(MOECL_CAPACITY_ORDER_ENUM)
#undef MOECL_CAPACITY_ORDER_ENUM
} moecl_capacity_order;

/* Zero experts have no limit. Rows are computed without padding, however much room is left: the result is the same. */
typedef struct moecl_capacity {
    moecl_capacity_kind kind;
    float value;
    moecl_capacity_order order;
    bool normalise_after; /* the weights of a token are normalised (and scaled) after dropping, not before */
} moecl_capacity;

typedef struct moecl_router {
    moecl_score score;
    bool biased;   /* vector ROUTER_BIAS */
    float softcap; /* 0: none */
    float jitter;  /* of SPARSEMIXER: in round j the weight is the softmax of z over the experts not taken before with
                    * (m - z_e) / max(|z_e|, m) <= 2 * jitter, m being the largest z of those */

    moecl_selection selection;
    bool selection_biased; /* vector SELECTION_BIAS */
    size_t groups;         /* a divisor of R; 0 or 1: none */
    size_t top_groups;     /* 1 to groups */
    moecl_group_score group_score;
    moecl_group_mask group_mask;
    float top_p;                /* > 0: of the k, the fewest whose scores sum to at least top_p (at least one) */
    float threshold;            /* > 0: of the k, those with a score of at least this, and the first in any case */
    size_t table_rows;          /* of TABLE: token ids are 0 to table_rows - 1 */
    size_t sinkhorn_iterations; /* of SINKHORN; 0: 10 */

    moecl_weight weight;
    moecl_normalisation normalisation;
    float epsilon, power;
    float scale;          /* routed scaling factor; 0: 1 */
    bool expert_scaled;   /* vector EXPERT_SCALE */
    bool weight_on_input; /* weights multiply the experts' input instead of their output (Llama 4) */
    size_t zero_experts;  /* experts behind the E that return their input (LongCat-Flash) */
    moecl_capacity capacity;

    /* Of passes with moecl_forward.noisy, random by Philox 4x32-10 (Salmon 2011) out of (seed, moecl_forward.step,
     * token, element): the same bits on every device. */
    bool noise;         /* noisy top-k (Shazeer 2017): moecl_layer_set_noise() */
    float input_jitter; /* x' is multiplied by uniform numbers of [1 - input_jitter, 1 + input_jitter] (Switch) */
    bool random_second; /* a choice j > 0 stays with probability min(1, 2 * its normalised weight) (GShard) */
    uint64_t seed;
} moecl_router;

/* ----------------------------------------------------------------------------------------------- an expert -- */

#define MOECL_ACTIVATION_LIST(X)                                                                                       \
    X(SILU, "silu")           /* g / (1 + exp(-alpha g)) */                                                            \
    X(GELU, "gelu")           /* g * (1 + erf(g / sqrt 2)) / 2 */                                                      \
    X(GELU_TANH, "gelu-tanh") /* g * (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))) / 2 */                                  \
    X(RELU, "relu")                                                                                                    \
    X(RELU_SQUARED, "relu-squared")                                                                                    \
    X(IDENTITY, "identity")
typedef enum moecl_activation {
#define MOECL_ACTIVATION_ENUM(name, text) MOECL_ACTIVATION_##name,
    MOECL_ACTIVATION_LIST(MOECL_ACTIVATION_ENUM)
#undef MOECL_ACTIVATION_ENUM
} moecl_activation;

#define MOECL_CLAMP_LIST(X)                                                                                            \
    X(NONE, "none")                                                                                                    \
    X(BEFORE, "before") /* g = min(g, limit), u = clamp(u, -limit, limit), then the activation (GPT-OSS) */            \
    X(AFTER, "after")   /* act(g) = min(act(g), limit), u = clamp(u, -limit, limit) (Step-3) */
typedef enum moecl_clamp {
#define MOECL_CLAMP_ENUM(name, text) MOECL_CLAMP_##name,
    MOECL_CLAMP_LIST(MOECL_CLAMP_ENUM)
#undef MOECL_CLAMP_ENUM
} moecl_clamp;

/* What an expert computes of its input x:
 *
 *     g = W_gate x + b_gate,  u = W_up x + b_up,  h = act(g) * (u + up_offset),  z = W_down h + b_down
 *
 * and where `ungated`, of the up matrix alone: h = act(g), g = W_up x + b_up, clamped as a gate: BEFORE makes it
 * act(min(g, limit)), AFTER min(act(g), limit). The biases are there where `biased`. The swiglu of GPT-OSS is
 * {.activation = SILU, .alpha = 1.702, .clamp = BEFORE, .limit = 7, .up_offset = 1}. */
typedef struct moecl_expert_function {
    moecl_activation activation;
    bool ungated;
    bool biased;
    float alpha; /* of SILU; 0: 1 */
    moecl_clamp clamp;
    float limit;
    float up_offset;
} moecl_expert_function;

/* What becomes of x before a router or an expert reads it (Gemma 4). */
typedef struct moecl_input {
    bool normalised; /* x / sqrt(mean(x^2) + epsilon), times vector ROUTER_NORM or EXPERT_NORM where `scaled` */
    bool scaled;
    float epsilon;
    float scale; /* on top; 0: 1 */
} moecl_input;

/* The coefficient of the shared expert's output. */
#define MOECL_SHARED_GATE_LIST(X)                                                                                      \
    X(NONE, "none")       /* 1 */                                                                                      \
    X(SIGMOID, "sigmoid") /* sigmoid(g . x) (Qwen2-MoE) */                                                             \
    X(SOFTMAX, "softmax") /* c = softmax(g x), g [2,H]: y = c_0 routed + c_1 shared (residual MoE, DeepSpeed 2022) */
typedef enum moecl_shared_gate {
#define MOECL_SHARED_GATE_ENUM(name, text) MOECL_SHARED_GATE_##name,
    MOECL_SHARED_GATE_LIST(MOECL_SHARED_GATE_ENUM)
#undef MOECL_SHARED_GATE_ENUM
} moecl_shared_gate;

/* The names above as text and back, for programs that show or read a router: "softmax", "top-k", ... The n-th value's
 * name of an enumeration, static storage; NULL past the last. */
typedef enum moecl_choice {
    MOECL_CHOICE_SCORE,
    MOECL_CHOICE_SELECTION,
    MOECL_CHOICE_WEIGHT,
    MOECL_CHOICE_NORMALISATION,
    MOECL_CHOICE_GROUP_SCORE,
    MOECL_CHOICE_GROUP_MASK,
    MOECL_CHOICE_CAPACITY,
    MOECL_CHOICE_CAPACITY_ORDER,
    MOECL_CHOICE_ACTIVATION,
    MOECL_CHOICE_CLAMP,
    MOECL_CHOICE_SHARED_GATE,
    MOECL_CHOICE_COUNT
} moecl_choice;
MOECL_API const char *moecl_choice_name(moecl_choice choice, int value);

/* ------------------------------------------------------------------------------------------------- a layer -- */

typedef struct moecl_layer moecl_layer;

/* What a layer is. Zero-initialise, then fill in; zero is a sensible value of every optional member. */
typedef struct moecl_layer_options {
    size_t experts;      /* E, 1 to MOECL_MAX_EXPERTS; with the zero experts too */
    size_t hidden;       /* H, any size */
    size_t intermediate; /* I, any size */
    size_t top_k;        /* k, 1 to min(R, MOECL_MAX_TOP_K) */
    moecl_router router;
    moecl_expert_function function;
    size_t shared_intermediate; /* I of the shared expert; 0: none */
    moecl_expert_function shared_function;
    moecl_shared_gate shared_gate;
    float shared_scale;       /* of the shared expert's output; 0: 1 */
    moecl_input router_input; /* of the router; the shared expert, its gate and zero experts see x itself */
    moecl_input expert_input;
    size_t latent;      /* L: experts work on latent_down x, and latent_up brings their sum back to H (Nemotron-H); then
                         * gate and up are [I,L], down [L,I]; 0: none. Not together with expert_input or zero_experts */
    bool output_biased; /* vector OUTPUT_BIAS is added to y once a token (JetMoE) */
    moecl_type weights; /* storage of the expert, shared and latent matrices; all others are f32 */
    moecl_type activations;  /* type of x and y */
    const char *variant;     /* expert-GEMM variant by name; NULL: the library's plan decides */
    const char *parameters;  /* its tunable parameters, "name=value,..."; NULL: those fitted to the device */
    size_t workspace_budget; /* bytes; 0: 1 GiB. Tokens beyond it are processed in chunks */
} moecl_layer_options;

/* The names of the expert-GEMM variants, in order of preference; NULL past the last. Static storage. */
MOECL_API const char *moecl_variant_name(size_t index);

/* Makes a layer: builds its kernels and allocates its weights, whose content is undefined until set.
 * MOECL_INVALID_ARGUMENT, MOECL_UNSUPPORTED (the variant cannot serve this), MOECL_DEVICE_TOO_SMALL,
 * MOECL_OUT_OF_DEVICE_MEMORY, MOECL_BUILD_FAILED, MOECL_OPENCL_ERROR; *layer is then NULL. */
MOECL_API moecl_status moecl_layer_create(moecl_context *context, const moecl_layer_options *options,
                                          moecl_layer **layer);
/* Releases the layer; work already queued still completes. NULL is allowed. */
MOECL_API void moecl_layer_destroy(moecl_layer *layer);

/* The weights, given once, in any order, of any type; they are converted to the layer's storage, packed for the
 * variant, and borrowed only for the call. These block. */

/* An expert's weights in host memory; what its function does not have stays zero (data NULL). */
typedef struct moecl_expert_weights {
    moecl_matrix gate;                          /* [I,H] */
    moecl_matrix up;                            /* [I,H] */
    moecl_matrix down;                          /* [H,I] */
    moecl_matrix gate_bias, up_bias, down_bias; /* [1,I], [1,I], [1,H] */
} moecl_expert_weights;

MOECL_API moecl_status moecl_layer_set_router(moecl_layer *layer, const moecl_matrix *router); /* [R,H], hierarchical
                                                                                                * [R+groups,H] */
MOECL_API moecl_status moecl_layer_set_noise(moecl_layer *layer, const moecl_matrix *noise);   /* [R,H] */
MOECL_API moecl_status moecl_layer_set_expert(moecl_layer *layer, size_t expert, const moecl_expert_weights *weights);
MOECL_API moecl_status moecl_layer_set_shared_expert(moecl_layer *layer, const moecl_expert_weights *weights,
                                                     const moecl_matrix *shared_gate); /* [1,H]; SOFTMAX: [2,H]; NULL if
                                                                                        * not gated */
MOECL_API moecl_status moecl_layer_set_latent(moecl_layer *layer, const moecl_matrix *down, /* [L,H] */
                                              const moecl_matrix *up);                      /* [H,L] */

/* The vectors of a layer; each is there where its option says so. */
#define MOECL_VECTOR_LIST(X)                                                                                           \
    X(ROUTER_BIAS, "router bias")       /* [R]: router.biased */                                                       \
    X(SELECTION_BIAS, "selection bias") /* [R]: router.selection_biased */                                             \
    X(EXPERT_SCALE, "expert scale")     /* [R]: router.expert_scaled */                                                \
    X(ROUTER_NORM, "router norm")       /* [H]: router_input.scaled */                                                 \
    X(EXPERT_NORM, "expert norm")       /* [H]: expert_input.scaled */                                                 \
    X(OUTPUT_BIAS, "output bias")       /* [H]: output_biased */
typedef enum moecl_vector {
#define MOECL_VECTOR_ENUM(name, text) MOECL_VECTOR_##name,
    MOECL_VECTOR_LIST(MOECL_VECTOR_ENUM)
#undef MOECL_VECTOR_ENUM
        MOECL_VECTOR_COUNT
} moecl_vector;

MOECL_API const char *moecl_vector_name(moecl_vector vector); /* static storage; NULL past the last */
MOECL_API size_t moecl_vector_length(const moecl_layer_options *options, moecl_vector vector); /* 0: not there */
MOECL_API moecl_status moecl_layer_set_vector(moecl_layer *layer, moecl_vector vector,
                                              const moecl_matrix *values); /* [1,n] */
/* Where a vector lies on the device, f32; for reading it back and for updates of the caller's own. Memory NULL: none.
 */
MOECL_API moecl_buffer moecl_layer_vector(moecl_layer *layer, moecl_vector vector);
/* The id table [router.table_rows, k] of MOECL_SELECTION_TABLE; ids outside 0..R-1 are refused. */
MOECL_API moecl_status moecl_layer_set_table(moecl_layer *layer, const int32_t *ids);

/* The options the layer was made with: its variant's name filled in (static storage), `parameters` NULL. */
MOECL_API const moecl_layer_options *moecl_layer_describe(const moecl_layer *layer);
/* Bytes of packed weights on the device. */
MOECL_API size_t moecl_layer_weight_bytes(const moecl_layer *layer);

/* ----------------------------------------------------------------------------------------------- workspace -- */

/* Device memory that a forward pass over `tokens` tokens needs: at most the budget, since many tokens are processed
 * in chunks (MOECL_DEVICE_TOO_SMALL where the budget does not hold a single token). The layer makes it on first need
 * and keeps it; to have no allocation in the first forward pass, call moecl_layer_reserve() or bring your own. */
MOECL_API moecl_status moecl_layer_workspace_size(moecl_layer *layer, size_t tokens, size_t *bytes);
MOECL_API moecl_status moecl_layer_reserve(moecl_layer *layer, size_t tokens);
/* Uses `bytes` bytes at `workspace` (offset a multiple of 256) from now on, and retains the memory object; smaller
 * than a call needs means more chunks. A NULL memory goes back to the layer's own. */
MOECL_API moecl_status moecl_layer_set_workspace(moecl_layer *layer, moecl_buffer workspace, size_t bytes);

/* ----------------------------------------------------------------------------------------------- a forward -- */

/* Where a routing comes from or goes to; both NULL or both set. A token has moecl_layer_slots() choices: k, or E where
 * experts choose. */
typedef struct moecl_routing {
    moecl_buffer ids;     /* i32 [T,k]; -1: this choice is not used */
    moecl_buffer weights; /* f32 [T,k] */
} moecl_routing;

/* Choices that a token has room for: router.selection EXPERT_CHOICE: E, expert e's at e; else k. */
MOECL_API size_t moecl_layer_slots(const moecl_layer_options *options);

typedef struct moecl_forward {
    size_t tokens;          /* T, 0 to MOECL_MAX_TOKENS */
    moecl_buffer x;         /* in:  activations [T,H] */
    moecl_buffer y;         /* out: activations [T,H]; may not overlap x */
    moecl_routing routing;  /* in if `routing_given`, else out; memory NULL: not wanted */
    bool routing_given;     /* the caller's own expert ids and weights: the router is not run. An id of -1 contributes
                             * nothing; another one outside 0..R-1 neither, and it sets the flag that moecl_layer_check()
                             * reads */
    moecl_buffer token_ids; /* in: i32 [T], for MOECL_SELECTION_TABLE */
    bool noisy;             /* with the router's noise, input jitter and random second choices (training) */
    uint64_t step;          /* tells the random numbers of one pass from another's */
} moecl_forward;

/* Queues a forward pass and returns; nothing blocks and nothing is allocated (once the workspace is there), except in
 * the variant "clblast", which reads the experts' row counts back. The wait list and the event are as in OpenCL's own
 * calls: the work starts after the events in the list, *event (may be NULL; release it) tells when y is complete.
 * The passes of one layer share its workspace: on an out-of-order queue, let each wait for the event of the one before.
 * The same device, input and parameters give the same bits, every time. */
MOECL_API moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward *forward,
                                           cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                           cl_event *event);

/* Waits for the queue and tells whether any forward pass since the last check met NaN or infinity in x, NaN or
 * +infinity in the logits (-infinity masks an expert), or an expert id or token id out of range: MOECL_OK, or
 * MOECL_NOT_FINITE / MOECL_INVALID_ARGUMENT. Clears the flag. */
MOECL_API moecl_status moecl_layer_check(moecl_layer *layer);

/* Loss-free balancing (DeepSeek-V3): vector SELECTION_BIAS += rate * sign(mean load - load), where an expert's load is
 * how many choices of `ids` (i32 [T, slots], as a pass wrote them) fall on it; the mean is over all R outputs. The work
 * is queued: no pass may run while the bias changes, so the next one waits for *event on an out-of-order queue. */
MOECL_API moecl_status moecl_layer_update_selection_bias(moecl_layer *layer, size_t tokens, moecl_buffer ids,
                                                         float rate, cl_uint num_events_in_wait_list,
                                                         const cl_event *event_wait_list, cl_event *event);

/* The stages of a forward pass, for timing. */
#define MOECL_STAGE_LIST(X)                                                                                            \
    X(ROUTE, "route")         /* router GEMM, scores, top-k, capacity */                                               \
    X(PERMUTE, "permute")     /* counts, offsets, rows in expert order */                                              \
    X(GATHER, "gather")       /* token rows into the variant's input form */                                           \
    X(GATE_UP, "gate and up") /* expert GEMM 1 and the activation */                                                   \
    X(DOWN, "down")           /* expert GEMM 2 */                                                                      \
    X(SHARED, "shared expert")                                                                                         \
    X(COMBINE, "combine")

typedef enum moecl_stage {
#define MOECL_STAGE_ENUM(name, text) MOECL_STAGE_##name,
    MOECL_STAGE_LIST(MOECL_STAGE_ENUM)
#undef MOECL_STAGE_ENUM
        MOECL_STAGE_COUNT
} moecl_stage;

MOECL_API const char *moecl_stage_name(moecl_stage stage);

typedef struct moecl_stage_times {
    double seconds[MOECL_STAGE_COUNT];
} moecl_stage_times;

/* A forward pass that waits for the queue after each stage and adds its wall-clock time to `times`. Blocks: it is for
 * looking at a layer, not for running one. */
MOECL_API moecl_status moecl_layer_forward_timed(moecl_layer *layer, const moecl_forward *forward,
                                                 moecl_stage_times *times);

#ifdef __cplusplus
}
#endif

#endif
