/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - the names and meanings of the public enums that are not about data, and the library's version. */
#include <moecl/moecl.h>

const char *moecl_version(void)
{
    return MOECL_VERSION_STRING;
}

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct {
    const char *name, *message;
} statuses[] = {
#define STATUS(name, message) {"MOECL_" #name, message},
    MOECL_STATUS_LIST(STATUS)
#undef STATUS
};

const char *moecl_status_name(moecl_status status)
{
    return (size_t)status < COUNT(statuses) ? statuses[status].name : "MOECL_UNKNOWN_STATUS";
}

const char *moecl_status_message(moecl_status status)
{
    return (size_t)status < COUNT(statuses) ? statuses[status].message : "an unknown status";
}

static const char *const stages[] = {
#define STAGE(name, text) text,
    MOECL_STAGE_LIST(STAGE)
#undef STAGE
};

const char *moecl_stage_name(moecl_stage stage)
{
    return (size_t)stage < COUNT(stages) ? stages[stage] : "unknown";
}
