/* SPDX-License-Identifier: Apache-2.0 */
/* family.c - the members that a row can set, and the names of tensors. */
#include "family.h"

#include <stdio.h>
#include <string.h>

/* -------------------------------------------------------------------------------------------------- members -- */

#define AT(path) offsetof(struct moecl_reading, path)
#define SIZE(path)                                                                                                     \
    {                                                                                                                  \
#path, AT(options.path), MOECL_MEMBER_SIZE, MOECL_CHOICE_COUNT                                                 \
    }
#define REAL(path)                                                                                                     \
    {                                                                                                                  \
#path, AT(options.path), MOECL_MEMBER_REAL, MOECL_CHOICE_COUNT                                                 \
    }
#define FLAG(path)                                                                                                     \
    {                                                                                                                  \
#path, AT(options.path), MOECL_MEMBER_FLAG, MOECL_CHOICE_COUNT                                                 \
    }
#define CHOICE(path, choice)                                                                                           \
    {                                                                                                                  \
#path, AT(options.path), MOECL_MEMBER_CHOICE, MOECL_CHOICE_##choice                                            \
    }
#define FUNCTION(path)                                                                                                 \
    CHOICE(path.activation, ACTIVATION), FLAG(path.ungated), FLAG(path.biased), REAL(path.alpha),                      \
        CHOICE(path.clamp, CLAMP), REAL(path.limit), REAL(path.up_offset)
#define INPUT(path) FLAG(path.normalised), FLAG(path.scaled), REAL(path.epsilon), REAL(path.scale)

static const struct moecl_member members[] = {
    SIZE(experts),
    SIZE(hidden),
    SIZE(intermediate),
    SIZE(top_k),
    CHOICE(router.score, SCORE),
    FLAG(router.biased),
    REAL(router.softcap),
    REAL(router.jitter),
    CHOICE(router.selection, SELECTION),
    FLAG(router.selection_biased),
    SIZE(router.groups),
    SIZE(router.top_groups),
    CHOICE(router.group_score, GROUP_SCORE),
    CHOICE(router.group_mask, GROUP_MASK),
    REAL(router.top_p),
    REAL(router.threshold),
    SIZE(router.sinkhorn_iterations),
    CHOICE(router.weight, WEIGHT),
    CHOICE(router.normalisation, NORMALISATION),
    REAL(router.epsilon),
    REAL(router.power),
    REAL(router.scale),
    FLAG(router.expert_scaled),
    FLAG(router.weight_on_input),
    SIZE(router.zero_experts),
    CHOICE(router.capacity.kind, CAPACITY),
    REAL(router.capacity.value),
    CHOICE(router.capacity.order, CAPACITY_ORDER),
    FLAG(router.capacity.normalise_after),
    FLAG(router.noise),
    REAL(router.input_jitter),
    FLAG(router.random_second),
    FUNCTION(function),
    SIZE(shared_intermediate),
    FUNCTION(shared_function),
    CHOICE(shared_gate, SHARED_GATE),
    REAL(shared_scale),
    INPUT(router_input),
    INPUT(expert_input),
    SIZE(latent),
    FLAG(output_biased),
    {"shared_experts", AT(shared_experts), MOECL_MEMBER_SIZE, MOECL_CHOICE_COUNT},
    {"layers", AT(layers), MOECL_MEMBER_SIZE, MOECL_CHOICE_COUNT},
    {"dense", AT(dense), MOECL_MEMBER_FLAG, MOECL_CHOICE_COUNT},
    {"unsupported", AT(unsupported), MOECL_MEMBER_FLAG, MOECL_CHOICE_COUNT},
    {"nothing", AT(nothing), MOECL_MEMBER_FLAG, MOECL_CHOICE_COUNT},
};
enum { MEMBERS = sizeof members / sizeof members[0] };

const struct moecl_member *moecl_member_at(size_t offset)
{
    for (size_t i = 0; i < MEMBERS; i++)
        if (members[i].offset == offset)
            return &members[i];
    return NULL;
}

const struct moecl_member *moecl_member_named(const char *name)
{
    for (size_t i = 0; i < MEMBERS; i++)
        if (strcmp(members[i].name, name) == 0)
            return &members[i];
    return NULL;
}

/* Enumerations are as wide as unsigned, which the ABIs that OpenCL runs on agree about; the copy minds no alias. */
double moecl_member_get(const struct moecl_member *member, const struct moecl_reading *reading)
{
    const char *at = (const char *)reading + member->offset;
    size_t size = 0;
    float real = 0;
    bool flag = false;
    unsigned choice = 0;
    switch (member->kind) {
    case MOECL_MEMBER_SIZE:
        memcpy(&size, at, sizeof size);
        return (double)size;
    case MOECL_MEMBER_REAL:
        memcpy(&real, at, sizeof real);
        return (double)real;
    case MOECL_MEMBER_FLAG:
        memcpy(&flag, at, sizeof flag);
        return flag ? 1.0 : 0.0;
    case MOECL_MEMBER_CHOICE:
        memcpy(&choice, at, sizeof choice);
        return (double)choice;
    }
    return 0.0;
}

void moecl_member_set(const struct moecl_member *member, struct moecl_reading *reading, double value)
{
    char *at = (char *)reading + member->offset;
    switch (member->kind) {
    case MOECL_MEMBER_SIZE:
        memcpy(at, &(size_t){(size_t)value}, sizeof(size_t));
        break;
    case MOECL_MEMBER_REAL:
        memcpy(at, &(float){(float)value}, sizeof(float));
        break;
    case MOECL_MEMBER_FLAG:
        memcpy(at, &(bool){value != 0.0}, sizeof(bool));
        break;
    case MOECL_MEMBER_CHOICE:
        memcpy(at, &(unsigned){(unsigned)value}, sizeof(unsigned));
        break;
    }
}
_Static_assert(sizeof(moecl_score) == sizeof(unsigned), "choices are copied as unsigned");

int moecl_choice_named(moecl_choice choice, const char *name)
{
    for (int value = 0; moecl_choice_name(choice, value); value++)
        if (strcmp(moecl_choice_name(choice, value), name) == 0)
            return value;
    return -1;
}

/* ---------------------------------------------------------------------------------------------------- names -- */

const char *moecl_role_name(enum moecl_role role)
{
    static const char *const names[] = {
#define MOECL_ROLE_NAME(name, text) [MOECL_ROLE_##name] = text,
        MOECL_ROLE_LIST(MOECL_ROLE_NAME)
#undef MOECL_ROLE_NAME
    };
    return role < MOECL_ROLE_COUNT ? names[role] : NULL;
}

bool moecl_case_is_end(const struct moecl_case *item)
{
    return item->condition == MOECL_IS && !item->keys[0];
}

const struct moecl_family *moecl_family_find(const char *model_type)
{
    const struct moecl_family *family;
    for (size_t i = 0; (family = moecl_family_row(i)); i++)
        for (size_t j = 0; family->model_types[j]; j++)
            if (strcmp(model_type, family->model_types[j]) == 0)
                return family;
    return NULL;
}

static size_t count(const moecl_spellings spellings)
{
    size_t number = 0;
    while (spellings[number])
        number++;
    return number;
}

/* Appends `pattern` with `number` in place of the first `mark`. */
static void append(char *name, size_t size, const char *pattern, char mark, size_t number)
{
    const size_t length = strlen(name);
    const char *place = strchr(pattern, mark);
    if (!place)
        (void)snprintf(name + length, size - length, "%s", pattern);
    else
        (void)snprintf(name + length, size - length, "%.*s%zu%s", (int)(place - pattern), pattern, number, place + 1);
}

bool moecl_family_tensor_name(const struct moecl_family *family, enum moecl_role role, size_t layer, size_t expert,
                              size_t attempt, char *name, size_t size)
{
    static const moecl_spellings usual = {"model.layers.@.", "layers.@.", "model.language_model.layers.@.",
                                          "language_model.model.layers.@.", "language_model.layers.@."};
    const char *const *prefixes = family->prefixes[0] ? family->prefixes : usual;
    const size_t prefix_count = count(prefixes);
    const moecl_spellings *names = &family->tensors[role].names;
    if (attempt / prefix_count >= count(*names))
        return false;
    name[0] = '\0';
    append(name, size, prefixes[attempt % prefix_count], '@', layer);
    append(name, size, (*names)[attempt / prefix_count], '#', expert);
    return true;
}
