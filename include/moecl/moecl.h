/* SPDX-License-Identifier: Apache-2.0 */
/* moecl.h - Mixture-of-Experts layers on any OpenCL device. This header is the manual.
 *
 * What a layer computes, for every token x_t of x [T,H]:
 *
 *     z_t          = W_router x_t                               logits [E], in fp32
 *     p_t          = softmax(z_t)
 *     ids_t        = the k experts of largest p_t, ties to the lower index
 *     w_tj         = p_t[ids_tj], divided by their sum where the router normalises
 *     expert_e(x)  = W_down,e ( silu(W_gate,e x) * (W_up,e x) )
 *     y_t          = sum_j w_tj expert_{ids_tj}(x_t)  [ + sigmoid(g . x_t) shared(x_t) ]
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

/* Storage types of weights and activations. Sums are always accumulated in fp32. */
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

/* A row-major matrix [rows, columns] in host memory, rows one after the other without gaps, of any alignment. Borrowed
 * for the call. */
typedef struct moecl_matrix {
    const void *data;
    moecl_type type;
    size_t rows;
    size_t columns;
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
 * Makes an OpenCL context and an in-order queue of its own.
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

typedef struct moecl_layer moecl_layer;

/* What a layer is. Zero-initialise, then fill in; zero is a sensible value of every optional member. */
typedef struct moecl_layer_options {
    size_t experts;             /* E, 1 to MOECL_MAX_EXPERTS */
    size_t hidden;              /* H, any size */
    size_t intermediate;        /* I, any size */
    size_t top_k;               /* k, 1 to min(E, MOECL_MAX_TOP_K) */
    bool normalise;             /* divide the k routing weights by their sum (norm_topk_prob) */
    size_t shared_intermediate; /* I of the shared expert; 0: none */
    bool shared_gated;          /* scale the shared expert's output by sigmoid(g . x) (Qwen2-MoE) */
    moecl_type weights;         /* storage of the expert and shared matrices; the router's is always f32 */
    moecl_type activations;     /* type of x and y */
    const char *variant;        /* expert-GEMM variant by name; NULL: the library's plan decides */
    const char *parameters;     /* its tunable parameters, "name=value,..."; NULL: those fitted to the device */
    size_t workspace_budget;    /* bytes; 0: 1 GiB. Tokens beyond it are processed in chunks */
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
MOECL_API moecl_status moecl_layer_set_router(moecl_layer *layer, const moecl_matrix *router);             /* [E,H] */
MOECL_API moecl_status moecl_layer_set_expert(moecl_layer *layer, size_t expert, const moecl_matrix *gate, /* [I,H] */
                                              const moecl_matrix *up,                                      /* [I,H] */
                                              const moecl_matrix *down);                                   /* [H,I] */
MOECL_API moecl_status moecl_layer_set_shared_expert(moecl_layer *layer, const moecl_matrix *gate,         /* [S,H] */
                                                     const moecl_matrix *up,                               /* [S,H] */
                                                     const moecl_matrix *down,                             /* [H,S] */
                                                     const moecl_matrix *shared_gate); /* [1,H], NULL if not gated */

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

/* Where a routing comes from or goes to; both NULL or both set. */
typedef struct moecl_routing {
    moecl_buffer ids;     /* i32 [T,k] */
    moecl_buffer weights; /* f32 [T,k] */
} moecl_routing;

typedef struct moecl_forward {
    size_t tokens;         /* T, 0 to MOECL_MAX_TOKENS */
    moecl_buffer x;        /* in:  activations [T,H] */
    moecl_buffer y;        /* out: activations [T,H]; may not overlap x */
    moecl_routing routing; /* in if `routing_given`, else out; memory NULL: not wanted */
    bool routing_given;    /* the caller's own expert ids and weights: the router is not run. An id outside 0..E-1
                            * contributes nothing and sets the flag that moecl_layer_check() reads */
} moecl_forward;

/* Queues a forward pass and returns; nothing blocks and nothing is allocated (once the workspace is there), except in
 * the variant "clblast", which reads the experts' row counts back. The wait list and the event are as in OpenCL's own
 * calls: the work starts after the events in the list, *event (may be NULL; release it) tells when y is complete.
 * The passes of one layer share its workspace: on an out-of-order queue, let each wait for the event of the one before.
 * The same device, input and parameters give the same bits, every time. */
MOECL_API moecl_status moecl_layer_forward(moecl_layer *layer, const moecl_forward *forward,
                                           cl_uint num_events_in_wait_list, const cl_event *event_wait_list,
                                           cl_event *event);

/* Waits for the queue and tells whether any forward pass since the last check met NaN or infinity in x or in the
 * logits, or an expert id out of range: MOECL_OK, or MOECL_NOT_FINITE / MOECL_INVALID_ARGUMENT. Clears the flag. */
MOECL_API moecl_status moecl_layer_check(moecl_layer *layer);

/* The stages of a forward pass, for timing. */
#define MOECL_STAGE_LIST(X)                                                                                            \
    X(ROUTE, "route")         /* router GEMM, softmax, top-k */                                                        \
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
