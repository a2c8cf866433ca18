/* SPDX-License-Identifier: Apache-2.0 */
/* family.h - what config.json and the tensor names of a model family mean. A family is data: a row of the table in
 * families.c, or the same members out of a JSON description (description.c). */
#ifndef MOECL_RUNTIME_FAMILY_H
#define MOECL_RUNTIME_FAMILY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "device/error.h"

/* Alternative spellings of one key of config.json, of one tensor's name, ...; NULL behind the last. A key may be a path
 * of keys: "ffn_config.moe_top_k". */
enum { MOECL_SPELLINGS = 6 };
typedef const char *moecl_spellings[MOECL_SPELLINGS + 1];

/* -------------------------------------------------------------------------------------------------- members -- */

/* What is known of a layer when its config is read. */
struct moecl_reading {
    moecl_layer_options options;
    size_t shared_experts; /* the shared expert is as wide as so many experts, where shared_intermediate is 0 */
    size_t layers;         /* of the model */
    bool dense;            /* it is no MoE layer */
    bool unsupported;      /* it computes what no option says */
    bool nothing;          /* for cases that change nothing */
};

enum moecl_member_kind { MOECL_MEMBER_SIZE, MOECL_MEMBER_REAL, MOECL_MEMBER_FLAG, MOECL_MEMBER_CHOICE };

/* A member of a reading that rows can set. */
struct moecl_member {
    const char *name; /* "router.scale"; "dense" */
    size_t offset;
    enum moecl_member_kind kind;
    moecl_choice choice;
};

/* NULL: no such member. */
const struct moecl_member *moecl_member_at(size_t offset);
const struct moecl_member *moecl_member_named(const char *name);
double moecl_member_get(const struct moecl_member *member, const struct moecl_reading *reading);
void moecl_member_set(const struct moecl_member *member, struct moecl_reading *reading, double value);
/* The value of a choice called `name`; -1: none is. */
int moecl_choice_named(moecl_choice choice, const char *name);

/* ------------------------------------------------------------------------------------------------ a family -- */

/* A number of config.json for a member. Where the key holds a list, each layer has its own entry; the number of layers
 * may also be a list's length. */
enum moecl_conversion { MOECL_AS_IS, MOECL_ONE_MINUS, MOECL_INVERSE_ROOT };

struct moecl_source {
    size_t member; /* its offset */
    bool needed;   /* else what the base says holds without it */
    enum moecl_conversion conversion;
    moecl_spellings keys;
};

/* A member that is set where config.json says something, or for some layers. Of a key that holds a list, the layer's
 * own entry is looked at. A word that is in no case of its key is refused. */
#define MOECL_CONDITION_LIST(X)                                                                                        \
    X(IS, "is")                 /* the value is `value`: a word, "true", "false", "null", a number */                  \
    X(IS_NOT, "is-not")         /* it is not, or is absent */                                                          \
    X(BELOW, "below")           /* the layer's number is below the value */                                            \
    X(ABOVE, "above")           /* it is above the value, which is not negative */                                     \
    X(LISTED, "listed")         /* the list has the layer's number */                                                  \
    X(UNLISTED, "unlisted")     /* it is there and has not */                                                          \
    X(OFF_STEP, "off-step")     /* the layer's number modulo the value is not `phase` (-1: the value - 1) */           \
    X(LETTER_NOT, "letter-not") /* the value's letter of the layer's number is not that of `value` */                  \
    X(ALWAYS, "always")
enum moecl_condition {
#define MOECL_CONDITION_ENUM(name, text) MOECL_##name,
    MOECL_CONDITION_LIST(MOECL_CONDITION_ENUM)
#undef MOECL_CONDITION_ENUM
};

struct moecl_case {
    enum moecl_condition condition;
    moecl_spellings keys;
    const char *value;
    bool or_absent;   /* of IS: an absent key counts too */
    size_t otherwise; /* what an absent key counts as, where a number is looked for; 0: no number */
    int phase;
    const char *phase_key; /* of config.json, before `phase` */
    const char *unless;    /* not looked at where config.json has this key */
    size_t member;         /* its offset */
    double to;
};

/* The tensors of a layer; {names in JSON, shape}. N: a number of experts, or none where the name has a '#'. */
#define MOECL_ROLE_LIST(X)                                                                                             \
    X(ROUTER, "router")                 /* [R,H] */                                                                    \
    X(NOISE, "noise")                   /* [R,H] */                                                                    \
    X(ROUTER_BIAS, "router_bias")       /* [R] */                                                                      \
    X(SELECTION_BIAS, "selection_bias") /* [R] */                                                                      \
    X(EXPERT_SCALE, "expert_scale")     /* [R] */                                                                      \
    X(ROUTER_NORM, "router_norm")       /* [H] */                                                                      \
    X(EXPERT_NORM, "expert_norm")       /* [H] */                                                                      \
    X(OUTPUT_BIAS, "output_bias")       /* [H] */                                                                      \
    X(TABLE, "table")                   /* [tokens,k] of I64 or I32 */                                                 \
    X(GATE_UP, "gate_up")               /* [N,2I,H]: gate and up in one, looked for before the next two */             \
    X(GATE, "gate")                     /* [N,I,H] */                                                                  \
    X(UP, "up")                         /* [N,I,H] */                                                                  \
    X(DOWN, "down")                     /* [N,H,I] */                                                                  \
    X(GATE_UP_BIAS, "gate_up_bias")     /* [N,2I] */                                                                   \
    X(GATE_BIAS, "gate_bias")           /* [N,I] */                                                                    \
    X(UP_BIAS, "up_bias")               /* [N,I] */                                                                    \
    X(DOWN_BIAS, "down_bias")           /* [N,H] */                                                                    \
    X(SHARED_GATE_UP, "shared_gate_up") /* [2S,H]; these eight in the order of the experts' */                         \
    X(SHARED_GATE, "shared_gate")       /* [S,H] */                                                                    \
    X(SHARED_UP, "shared_up")           /* [S,H] */                                                                    \
    X(SHARED_DOWN, "shared_down")       /* [H,S] */                                                                    \
    X(SHARED_GATE_UP_BIAS, "shared_gate_up_bias")                                                                      \
    X(SHARED_GATE_BIAS, "shared_gate_bias")                                                                            \
    X(SHARED_UP_BIAS, "shared_up_bias")                                                                                \
    X(SHARED_DOWN_BIAS, "shared_down_bias")                                                                            \
    X(SHARED_SCALE, "shared_scale") /* [1,H] or, of SOFTMAX, [2,H]: the shared expert's coefficient is from it */      \
    X(LATENT_DOWN, "latent_down")   /* [L,H] */                                                                        \
    X(LATENT_UP, "latent_up")       /* [H,L] */
enum moecl_role {
#define MOECL_ROLE_ENUM(name, text) MOECL_ROLE_##name,
    MOECL_ROLE_LIST(MOECL_ROLE_ENUM)
#undef MOECL_ROLE_ENUM
        MOECL_ROLE_COUNT
};
const char *moecl_role_name(enum moecl_role role);

/* The names a tensor may have, from the layer's own prefix on; '#' is the expert's number. A name of experts' tensors
 * without '#' is that of all experts in one, [E,out,in] or [E*out,in]. */
struct moecl_tensor_names {
    moecl_spellings names;
    bool transposed;  /* [in,out]. What has all experts in one shows it by its shape; this is for where it does not */
    bool interleaved; /* gate and up in one: by turns, not one behind the other */
};

enum { MOECL_FAMILY_SOURCES = 24, MOECL_FAMILY_CASES = 20 };

/* Members left empty mean that the family lacks the thing. */
struct moecl_family {
    moecl_spellings model_types; /* the first one is the family's name */
    const char *refusal;         /* why it is not supported */
    moecl_spellings prefixes;    /* of a layer's tensors, '@' being its number; none: the usual ones */
    struct moecl_reading base;   /* what holds for every layer of every config.json */
    bool fixed_activation;       /* config.json is not asked for it */
    /* The number of layers, E, H, I, k and the activation have usual keys, which hold where no source is for them.
     * The members of shared_function start as those of function, `biased` apart. */
    struct moecl_source sources[MOECL_FAMILY_SOURCES]; /* ends with one without keys */
    struct moecl_case cases[MOECL_FAMILY_CASES]; /* in this order; ends with one whose condition is IS of no key */
    struct moecl_tensor_names tensors[MOECL_ROLE_COUNT];
};

/* The table; NULL past the last. */
const struct moecl_family *moecl_family_row(size_t index);
/* The row that has this model_type; NULL: none has. */
const struct moecl_family *moecl_family_find(const char *model_type);
bool moecl_case_is_end(const struct moecl_case *item);

/* The `attempt`-th full name that a tensor may have, into `name`; false past the last. */
bool moecl_family_tensor_name(const struct moecl_family *family, enum moecl_role role, size_t layer, size_t expert,
                              size_t attempt, char *name, size_t size);

/* Reads a description of a family. The strings of *family are those of `root`, which must outlive it. `path` is for the
 * sentence. MOECL_BAD_FILE. */
moecl_status moecl_description_read(struct moecl_error *error, const char *path, const json_t *root,
                                    struct moecl_family *family);

#endif
