/* SPDX-License-Identifier: Apache-2.0 */
/* error.c - writing the sentence of a failure. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

moecl_status moecl_error_set(struct moecl_error *error, moecl_status status, const char *format, ...)
{
    if (error == NULL)
        return status;
    char sentence[sizeof(error->sentence)]; /* the arguments may hold parts of the old sentence */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    memcpy(error->sentence, sentence, sizeof(sentence));
    return status;
}

moecl_status moecl_error_append(struct moecl_error *error, moecl_status status, const char *format, ...)
{
    if (error == NULL)
        return status;
    size_t length = strlen(error->sentence);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->sentence + length, sizeof(error->sentence) - length, format, arguments);
    va_end(arguments);
    return status;
}

static const struct {
    cl_int code;
    const char *name;
} codes[] = {
#define CODE(name)                                                                                                     \
    {                                                                                                                  \
        name, #name                                                                                                    \
    }
    CODE(CL_SUCCESS),
    CODE(CL_DEVICE_NOT_FOUND),
    CODE(CL_DEVICE_NOT_AVAILABLE),
    CODE(CL_COMPILER_NOT_AVAILABLE),
    CODE(CL_MEM_OBJECT_ALLOCATION_FAILURE),
    CODE(CL_OUT_OF_RESOURCES),
    CODE(CL_OUT_OF_HOST_MEMORY),
    CODE(CL_PROFILING_INFO_NOT_AVAILABLE),
    CODE(CL_MEM_COPY_OVERLAP),
    CODE(CL_BUILD_PROGRAM_FAILURE),
    CODE(CL_MAP_FAILURE),
    CODE(CL_MISALIGNED_SUB_BUFFER_OFFSET),
    CODE(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST),
    CODE(CL_COMPILE_PROGRAM_FAILURE),
    CODE(CL_LINKER_NOT_AVAILABLE),
    CODE(CL_LINK_PROGRAM_FAILURE),
    CODE(CL_DEVICE_PARTITION_FAILED),
    CODE(CL_KERNEL_ARG_INFO_NOT_AVAILABLE),
    CODE(CL_INVALID_VALUE),
    CODE(CL_INVALID_DEVICE_TYPE),
    CODE(CL_INVALID_PLATFORM),
    CODE(CL_INVALID_DEVICE),
    CODE(CL_INVALID_CONTEXT),
    CODE(CL_INVALID_QUEUE_PROPERTIES),
    CODE(CL_INVALID_COMMAND_QUEUE),
    CODE(CL_INVALID_HOST_PTR),
    CODE(CL_INVALID_MEM_OBJECT),
    CODE(CL_INVALID_BINARY),
    CODE(CL_INVALID_BUILD_OPTIONS),
    CODE(CL_INVALID_PROGRAM),
    CODE(CL_INVALID_PROGRAM_EXECUTABLE),
    CODE(CL_INVALID_KERNEL_NAME),
    CODE(CL_INVALID_KERNEL_DEFINITION),
    CODE(CL_INVALID_KERNEL),
    CODE(CL_INVALID_ARG_INDEX),
    CODE(CL_INVALID_ARG_VALUE),
    CODE(CL_INVALID_ARG_SIZE),
    CODE(CL_INVALID_KERNEL_ARGS),
    CODE(CL_INVALID_WORK_DIMENSION),
    CODE(CL_INVALID_WORK_GROUP_SIZE),
    CODE(CL_INVALID_WORK_ITEM_SIZE),
    CODE(CL_INVALID_GLOBAL_OFFSET),
    CODE(CL_INVALID_EVENT_WAIT_LIST),
    CODE(CL_INVALID_EVENT),
    CODE(CL_INVALID_OPERATION),
    CODE(CL_INVALID_BUFFER_SIZE),
    CODE(CL_INVALID_GLOBAL_WORK_SIZE),
    CODE(CL_INVALID_PROPERTY),
    CODE(CL_INVALID_COMPILER_OPTIONS),
    CODE(CL_INVALID_LINKER_OPTIONS),
    CODE(CL_INVALID_DEVICE_PARTITION_COUNT),
#undef CODE
    {-1001, "CL_PLATFORM_NOT_FOUND_KHR"},
};

const char *moecl_opencl_code_name(cl_int code)
{
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (codes[i].code == code)
            return codes[i].name;
    return "an unknown OpenCL code";
}

moecl_status moecl_error_opencl(struct moecl_error *error, cl_int code, const char *call)
{
    moecl_status status = MOECL_OPENCL_ERROR;
    switch (code) {
    case CL_OUT_OF_HOST_MEMORY:
        status = MOECL_OUT_OF_HOST_MEMORY;
        break;
    case CL_OUT_OF_RESOURCES: /* what drivers that allocate on first use say when memory runs out */
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
        status = MOECL_OUT_OF_DEVICE_MEMORY;
        break;
    default:
        break;
    }
    return moecl_error_set(error, status, "%.*s failed: %s (%d)", (int)strcspn(call, "("), call,
                           moecl_opencl_code_name(code), (int)code);
}
