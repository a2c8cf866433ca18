/* SPDX-License-Identifier: Apache-2.0 */
/* description.c - a family out of JSON, in the terms of the table's rows. README.md has an example. */
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "family.h"
#include "json.h"

struct description {
    struct moecl_error *error;
    const char *path;
    struct moecl_family *family;
};

typedef moecl_status read_part(const struct description *description, const json_t *value);

static moecl_status wrong(const struct description *description, const char *where, const char *what)
{
    return moecl_error_set(description->error, MOECL_BAD_FILE, "%s: \"%s\": %s", description->path, QUOTE(where), what);
}

/* A string, or a list of strings. */
static moecl_status read_spellings(const struct description *description, const char *where, const json_t *value,
                                   moecl_spellings spellings)
{
    const size_t count = json_is_array(value) ? json_array_size(value) : 1;
    memset(spellings, 0, sizeof(moecl_spellings));
    if (count < 1 || count > MOECL_SPELLINGS)
        return wrong(description, where, "expected a string or a list of up to six");
    for (size_t i = 0; i < count; i++) {
        spellings[i] = json_string_value(json_is_array(value) ? json_array_get(value, i) : value);
        if (!spellings[i] || spellings[i][0] == '\0' || strlen(spellings[i]) > 120)
            return wrong(description, where, "expected a string or a list of them, of up to 120 characters");
    }
    return MOECL_OK;
}

static moecl_status find_member(const struct description *description, const char *name,
                                const struct moecl_member **member)
{
    *member = moecl_member_named(name);
    return *member ? MOECL_OK : wrong(description, name, "there is no such member");
}

/* A value for a member: a number, a boolean, the name of a choice. */
static moecl_status read_value(const struct description *description, const struct moecl_member *member,
                               const json_t *value, double *number)
{
    const char *name = json_string_value(value);
    switch (member->kind) {
    case MOECL_MEMBER_FLAG:
        *number = json_is_true(value) ? 1.0 : 0.0;
        return json_is_boolean(value) ? MOECL_OK : wrong(description, member->name, "expected a boolean");
    case MOECL_MEMBER_CHOICE:
        *number = name ? moecl_choice_named(member->choice, name) : -1;
        return *number >= 0.0 ? MOECL_OK : wrong(description, member->name, "there is no choice of this name");
    case MOECL_MEMBER_SIZE:
        *number = (double)json_integer_value(value);
        return json_is_integer(value) && *number >= 0.0 && *number <= (double)INT32_MAX
                   ? MOECL_OK
                   : wrong(description, member->name, "expected a whole number from 0 to 2^31 - 1");
    case MOECL_MEMBER_REAL:
        *number = json_number_value(value);
        return json_is_number(value) && fabs(*number) < 1e38 ? MOECL_OK
                                                             : wrong(description, member->name, "expected a number");
    }
    return MOECL_OK;
}

/* -------------------------------------------------------------------------------------------------- options -- */

static moecl_status add_case(const struct description *description, const struct moecl_case *added)
{
    struct moecl_case *item = description->family->cases;
    while (!moecl_case_is_end(item))
        item++;
    if (item == &description->family->cases[MOECL_FAMILY_CASES - 1])
        return wrong(description, "cases", "there are too many");
    *item = *added;
    return MOECL_OK;
}

/* Members of shared_function start as those of function whatever the base says, so they are set in every case. */
static moecl_status set_option(const struct description *description, const char *name, const json_t *value)
{
    static const char shared[] = "shared_function.";
    moecl_status status = MOECL_OK;
    const struct moecl_member *member;
    double number;

    TRY(find_member(description, name, &member));
    TRY(read_value(description, member, value, &number));
    if (strncmp(name, shared, sizeof shared - 1) == 0)
        TRY(add_case(description,
                     &(struct moecl_case){.condition = MOECL_ALWAYS, .member = member->offset, .to = number}));
    else
        moecl_member_set(member, &description->family->base, number);
out:
    return status;
}

/* Objects within objects: {"router": {"scale": 2}} and {"router.scale": 2} are the same. The three levels that there
 * are in an option's name. */
static moecl_status read_options_at(const struct description *description, const char *prefix, const json_t *options,
                                    size_t depth)
{
    moecl_status status = MOECL_OK;
    char name[128];
    const char *key;
    json_t *value;

    if (!json_is_object(options) || depth > 2)
        TRY(wrong(description, prefix[0] ? prefix : "options", "expected an object"));
    json_object_foreach((json_t *)(uintptr_t)options, key, value)
    {
        const int length = snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] ? "." : "", key);
        if (length < 0 || (size_t)length >= sizeof name)
            TRY(wrong(description, key, "there is no such member"));
        if (json_is_object(value))
            TRY(read_options_at(description, name, value, depth + 1));
        else
            TRY(set_option(description, name, value));
    }
out:
    return status;
}

static moecl_status read_options(const struct description *description, const json_t *options)
{
    return read_options_at(description, "", options, 0);
}

/* -------------------------------------------------------------------------------------------------- sources -- */

static const char *const conversions[] = {
    [MOECL_AS_IS] = "as-is", [MOECL_ONE_MINUS] = "one-minus", [MOECL_INVERSE_ROOT] = "inverse-root"};

/* Names[i] == text for some i; -1: none is. */
static int find_word(const char *const *names, size_t count, const char *text)
{
    for (size_t i = 0; text && i < count; i++)
        if (strcmp(names[i], text) == 0)
            return (int)i;
    return -1;
}

/* The family's source for a member, or room for one; NULL: there is none left. */
static struct moecl_source *source_for(struct moecl_family *family, size_t member)
{
    for (size_t i = 0; i + 1 < MOECL_FAMILY_SOURCES; i++)
        if (!family->sources[i].keys[0] || family->sources[i].member == member)
            return &family->sources[i];
    return NULL;
}

/* {"keys": [...], "as": "one-minus"}, or the keys alone. */
static moecl_status read_source(const struct description *description, const char *name, const json_t *value,
                                bool needed)
{
    moecl_status status = MOECL_OK;
    const struct moecl_member *member;
    struct moecl_source source = {.needed = needed};
    const json_t *keys = json_is_object(value) ? json_object_get(value, "keys") : value;
    const json_t *as = json_is_object(value) ? json_object_get(value, "as") : NULL;

    TRY(find_member(description, name, &member));
    source.member = member->offset;
    TRY(read_spellings(description, name, keys, source.keys));
    if (as) {
        const int conversion =
            find_word(conversions, sizeof conversions / sizeof conversions[0], json_string_value(as));
        if (conversion < 0)
            TRY(wrong(description, name, "there is no conversion of this name"));
        source.conversion = (enum moecl_conversion)conversion;
    }
    struct moecl_source *place = source_for(description->family, source.member);
    if (!place)
        return wrong(description, name, "there are too many sources");
    *place = source;
out:
    return status;
}

static moecl_status read_sources(const struct description *description, const json_t *sources, bool needed)
{
    moecl_status status = MOECL_OK;
    const char *name;
    json_t *value;

    if (!json_is_object(sources))
        TRY(wrong(description, needed ? "needs" : "takes", "expected an object"));
    json_object_foreach((json_t *)(uintptr_t)sources, name, value) TRY(read_source(description, name, value, needed));
out:
    return status;
}

static moecl_status read_needs(const struct description *description, const json_t *sources)
{
    return read_sources(description, sources, true);
}

static moecl_status read_takes(const struct description *description, const json_t *sources)
{
    return read_sources(description, sources, false);
}

/* ---------------------------------------------------------------------------------------------------- cases -- */

static const char *const conditions[] = {
#define MOECL_CONDITION_NAME(name, text) [MOECL_##name] = text,
    MOECL_CONDITION_LIST(MOECL_CONDITION_NAME)
#undef MOECL_CONDITION_NAME
};
enum { CONDITIONS = sizeof conditions / sizeof conditions[0] };

/* {"key": K, "is": V} and so on: the condition is the member that has its name, the value what stands there. */
static moecl_status read_condition(const struct description *description, const json_t *object, struct moecl_case *item)
{
    static const char *const digits[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    size_t found = 0;
    for (size_t i = 0; i < CONDITIONS; i++) {
        const json_t *value = json_object_get(object, conditions[i]);
        if (!value)
            continue;
        found++;
        item->condition = (enum moecl_condition)i;
        item->value = json_is_true(value)    ? "true"
                      : json_is_false(value) ? "false"
                      : json_is_null(value)  ? "null"
                                             : json_string_value(value);
        if (json_is_integer(value) && json_integer_value(value) >= 0 && json_integer_value(value) <= 9)
            item->value = digits[json_integer_value(value)];
        if (!item->value)
            return wrong(description, conditions[i], "expected a string, a boolean, null or a digit");
    }
    if (found != 1)
        return wrong(description, "cases", "each needs one condition");
    if (item->condition == MOECL_ALWAYS || json_object_get(object, "key"))
        return MOECL_OK;
    return wrong(description, "cases", "each needs a \"key\", but for those that hold \"always\"");
}

/* A number of a case, that may be absent. */
static moecl_status read_small(const struct description *description, const json_t *object, const char *name,
                               long long minimum, long long *number)
{
    const json_t *value = json_object_get(object, name);
    if (!value)
        return MOECL_OK;
    *number = json_integer_value(value);
    if (!json_is_integer(value) || *number < minimum || *number > INT_MAX)
        return wrong(description, name, "expected a whole number");
    return MOECL_OK;
}

static moecl_status read_case(const struct description *description, const json_t *object)
{
    moecl_status status = MOECL_OK;
    struct moecl_case item = {.phase = -1};
    const struct moecl_member *member;
    const char *set = json_string_value(json_object_get(object, "set"));
    long long otherwise = 0, phase = -1;

    if (!json_is_object(object) || !set)
        TRY(wrong(description, "cases", "expected objects with \"set\""));
    TRY(read_condition(description, object, &item));
    if (json_object_get(object, "key"))
        TRY(read_spellings(description, "key", json_object_get(object, "key"), item.keys));
    TRY(read_small(description, object, "otherwise", 0, &otherwise));
    TRY(read_small(description, object, "phase", -1, &phase));
    item.otherwise = (size_t)otherwise;
    item.phase = (int)phase;
    item.or_absent = json_is_true(json_object_get(object, "or_absent"));
    item.phase_key = json_string_value(json_object_get(object, "phase_key"));
    item.unless = json_string_value(json_object_get(object, "unless"));
    TRY(find_member(description, set, &member));
    item.member = member->offset;
    item.to = 1.0;
    if (json_object_get(object, "to") || member->kind != MOECL_MEMBER_FLAG)
        TRY(read_value(description, member, json_object_get(object, "to"), &item.to));
    TRY(add_case(description, &item));
out:
    return status;
}

static moecl_status read_cases(const struct description *description, const json_t *cases)
{
    moecl_status status = MOECL_OK;
    if (!json_is_array(cases))
        TRY(wrong(description, "cases", "expected a list"));
    for (size_t i = 0; i < json_array_size(cases); i++)
        TRY(read_case(description, json_array_get(cases, i)));
out:
    return status;
}

/* -------------------------------------------------------------------------------------------------- tensors -- */

static moecl_status read_tensor(const struct description *description, const char *role, const json_t *value)
{
    moecl_status status = MOECL_OK;
    size_t index = 0;
    struct moecl_tensor_names tensor = {.transposed = false};
    const json_t *names = json_is_object(value) ? json_object_get(value, "names") : value;

    while (index < MOECL_ROLE_COUNT && strcmp(moecl_role_name((enum moecl_role)index), role) != 0)
        index++;
    if (index == MOECL_ROLE_COUNT)
        TRY(wrong(description, role, "there is no such tensor"));
    TRY(read_spellings(description, role, names, tensor.names));
    if (json_is_object(value)) {
        tensor.transposed = json_is_true(json_object_get(value, "transposed"));
        tensor.interleaved = json_is_true(json_object_get(value, "interleaved"));
    }
    description->family->tensors[index] = tensor;
out:
    return status;
}

static moecl_status read_tensors(const struct description *description, const json_t *tensors)
{
    moecl_status status = MOECL_OK;
    const char *role;
    json_t *value;

    if (!json_is_object(tensors))
        TRY(wrong(description, "tensors", "expected an object"));
    json_object_foreach((json_t *)(uintptr_t)tensors, role, value) TRY(read_tensor(description, role, value));
out:
    return status;
}

/* ------------------------------------------------------------------------------------------- the whole of it -- */

static moecl_status read_model_types(const struct description *description, const json_t *value)
{
    return read_spellings(description, "model_types", value, description->family->model_types);
}

static moecl_status read_prefixes(const struct description *description, const json_t *value)
{
    return read_spellings(description, "prefixes", value, description->family->prefixes);
}

static moecl_status read_fixed_activation(const struct description *description, const json_t *value)
{
    description->family->fixed_activation = json_is_true(value);
    return json_is_boolean(value) ? MOECL_OK : wrong(description, "fixed_activation", "expected a boolean");
}

/* The members of a description, in the order in which they are read. A row that a description is "like" comes first;
 * what the description says replaces what is the row's, but for cases, which come after its. */
static moecl_status read_like(const struct description *description, const json_t *value)
{
    const char *name = json_string_value(value);
    const struct moecl_family *row = name ? moecl_family_find(name) : NULL;
    if (!row || row->refusal)
        return wrong(description, "like", "there is no such family");
    *description->family = *row;
    return MOECL_OK;
}

static const struct {
    const char *name;
    read_part *read;
} parts[] = {
    {"like", read_like},
    {"model_types", read_model_types},
    {"prefixes", read_prefixes},
    {"options", read_options},
    {"needs", read_needs},
    {"takes", read_takes},
    {"cases", read_cases},
    {"tensors", read_tensors},
    {"fixed_activation", read_fixed_activation},
};
enum { PARTS = sizeof parts / sizeof parts[0] };

moecl_status moecl_description_read(struct moecl_error *error, const char *path, const json_t *root,
                                    struct moecl_family *family)
{
    const struct description description = {error, path, family};
    moecl_status status = MOECL_OK;
    const char *key;
    json_t *value;

    *family = (struct moecl_family){0};
    json_object_foreach((json_t *)(uintptr_t)root, key, value)
    {
        size_t i = 0;
        while (i < PARTS && strcmp(parts[i].name, key) != 0)
            i++;
        if (i == PARTS)
            TRY(wrong(&description, key, "there is no such member of a description"));
    }
    for (size_t i = 0; i < PARTS; i++)
        if ((value = json_object_get(root, parts[i].name)))
            TRY(parts[i].read(&description, value));
    if (!family->model_types[0])
        TRY(wrong(&description, "model_types", "it is missing"));
    if (!family->tensors[MOECL_ROLE_ROUTER].names[0] || !family->tensors[MOECL_ROLE_DOWN].names[0])
        TRY(wrong(&description, "tensors", "\"router\" or \"down\" is missing"));
out:
    return status;
}
