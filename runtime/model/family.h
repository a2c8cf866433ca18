/* SPDX-License-Identifier: Apache-2.0 */
/* family.h - what config.json and the tensor names of a model family mean: one table, a row a family. */
#ifndef MOECL_RUNTIME_FAMILY_H
#define MOECL_RUNTIME_FAMILY_H

#include <stdbool.h>
#include <stddef.h>

#include "device/error.h"

/* Alternative spellings of one key of config.json, or of one tensor's name; NULL behind the last. A tensor's name is
 * given from the layer's own prefix on, and has '#' for the expert's number. */
enum { MOECL_SPELLINGS = 3 };
typedef const char *moecl_spellings[MOECL_SPELLINGS];

/* The tensors of a layer. */
enum moecl_role {
    MOECL_ROLE_ROUTER,       /* [E,H] */
    MOECL_ROLE_GATE,         /* [I,H], one an expert; so are the next two */
    MOECL_ROLE_UP,           /* [I,H] */
    MOECL_ROLE_DOWN,         /* [H,I] */
    MOECL_ROLE_SHARED_GATE,  /* [S,H] */
    MOECL_ROLE_SHARED_UP,    /* [S,H] */
    MOECL_ROLE_SHARED_DOWN,  /* [H,S] */
    MOECL_ROLE_SHARED_SCALE, /* [1,H]: its product with x goes through the sigmoid */
    MOECL_ROLE_COUNT
};

/* A row of the table. Members left empty mean that the family lacks the thing. */
struct moecl_family {
    const char *model_type;
    /* sizes in config.json */
    moecl_spellings experts, intermediate, shared_intermediate;
    /* a boolean in config.json, and what holds where it is absent (or has no key at all) */
    moecl_spellings normalise;
    bool normalise_default;
    /* Layer N is dense if a list in config.json has N, or if N + 1 is no multiple of a number there. */
    moecl_spellings dense_layers, sparse_step;
    moecl_spellings tensors[MOECL_ROLE_COUNT];
};

/* What a family's row makes of a config.json. */
struct moecl_config {
    const struct moecl_family *family;
    size_t layers;
    size_t hidden, experts, top_k, intermediate;
    size_t shared_intermediate; /* 0: no shared expert */
    bool normalise;
    bool *moe; /* [layers]: which are MoE layers */
};

/* Reads the text of a config.json; `path` is for the sentence. MOECL_BAD_FILE (malformed, a key is missing or of the
 * wrong kind), MOECL_UNKNOWN_MODEL, MOECL_UNSUPPORTED (quantised weights, an activation, more experts than we can). */
moecl_status moecl_config_read(struct moecl_error *error, const char *path, const char *text, size_t size,
                               struct moecl_config *config);
/* Zeroes it; a zeroed config is allowed. */
void moecl_config_free(struct moecl_config *config);

/* The `attempt`-th full name that a tensor may have, into `name`; false past the last. */
bool moecl_family_tensor_name(const struct moecl_family *family, enum moecl_role role, size_t layer, size_t expert,
                              size_t attempt, char *name, size_t size);

#endif
