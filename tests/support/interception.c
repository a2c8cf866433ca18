/* SPDX-License-Identifier: Apache-2.0 */
/* interception.c - a wrapper for each function of opencl_functions.h and for the library's allocator, by the linker's
 * --wrap: a reference to NAME becomes __wrap_NAME, and __real_NAME is the function itself. */
#include "interception.h"

#include <CL/cl.h>

#include "opencl_functions.h"

struct interception interception;

void interception_start(size_t fail_at)
{
    interception = (struct interception){.fail_at = fail_at};
}

void interception_stop(void)
{
    interception.fail_at = 0;
}

/* Counts a call that can fail; true: this one shall. */
static bool fails(const char *name, bool blocks)
{
    interception.calls++;
    if (blocks) {
        interception.blocking++;
        interception.blocked_in = name;
    }
    if (interception.calls != interception.fail_at)
        return false;
    interception.failed = name;
    return true;
}

/* ------------------------------------------------------------------------------------------------- OpenCL -- */

#define WRAP_CODE(name, blocks, parameters, arguments)                                                                 \
    cl_int __real_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters                                                                                    \
    {                                                                                                                  \
        return fails(#name, blocks) ? CL_OUT_OF_RESOURCES : __real_##name arguments;                                   \
    }
OPENCL_CODE_LIST(WRAP_CODE)

#define WRAP_QUEUE(name, blocks, parameters, arguments)                                                                \
    cl_int __real_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters                                                                                    \
    {                                                                                                                  \
        if (fails(#name, blocks))                                                                                      \
            return CL_OUT_OF_RESOURCES;                                                                                \
        const cl_int code = __real_##name arguments;                                                                   \
        interception.objects += code == CL_SUCCESS && event != NULL;                                                   \
        return code;                                                                                                   \
    }
OPENCL_QUEUE_LIST(WRAP_QUEUE)

#define WRAP_OBJECT(name, type, parameters, arguments)                                                                 \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        if (fails(#name, false)) {                                                                                     \
            if (code != NULL)                                                                                          \
                *code = CL_OUT_OF_RESOURCES;                                                                           \
            return NULL;                                                                                               \
        }                                                                                                              \
        type object = __real_##name arguments;                                                                         \
        interception.objects += object != NULL;                                                                        \
        interception.allocations += object != NULL;                                                                    \
        return object;                                                                                                 \
    }
OPENCL_OBJECT_LIST(WRAP_OBJECT)

#define WRAP_MAP(name, blocks, parameters, arguments)                                                                  \
    void *__real_##name parameters;                                                                                    \
    void *__wrap_##name parameters;                                                                                    \
    void *__wrap_##name parameters                                                                                     \
    {                                                                                                                  \
        if (fails(#name, blocks)) {                                                                                    \
            if (code != NULL)                                                                                          \
                *code = CL_OUT_OF_RESOURCES;                                                                           \
            return NULL;                                                                                               \
        }                                                                                                              \
        void *mapped = __real_##name arguments;                                                                        \
        interception.objects += mapped != NULL && event != NULL;                                                       \
        return mapped;                                                                                                 \
    }
OPENCL_MAP_LIST(WRAP_MAP)

#define WRAP_UNMAP(name, blocks, parameters, arguments)                                                                \
    cl_int __real_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters;                                                                                   \
    cl_int __wrap_##name parameters                                                                                    \
    {                                                                                                                  \
        if (fails(#name, blocks)) {                                                                                    \
            event = NULL;                                                                                              \
            __real_##name arguments;                                                                                   \
            return CL_OUT_OF_RESOURCES;                                                                                \
        }                                                                                                              \
        const cl_int code = __real_##name arguments;                                                                   \
        interception.objects += code == CL_SUCCESS && event != NULL;                                                   \
        return code;                                                                                                   \
    }
OPENCL_UNMAP_LIST(WRAP_UNMAP)

#define WRAP_RETAIN(name, type)                                                                                        \
    cl_int __real_##name(type object);                                                                                 \
    cl_int __wrap_##name(type object);                                                                                 \
    cl_int __wrap_##name(type object)                                                                                  \
    {                                                                                                                  \
        if (fails(#name, false))                                                                                       \
            return CL_OUT_OF_RESOURCES;                                                                                \
        interception.objects++;                                                                                        \
        return __real_##name(object);                                                                                  \
    }
OPENCL_RETAIN_LIST(WRAP_RETAIN)

#define WRAP_RELEASE(name, type)                                                                                       \
    cl_int __real_##name(type object);                                                                                 \
    cl_int __wrap_##name(type object);                                                                                 \
    cl_int __wrap_##name(type object)                                                                                  \
    {                                                                                                                  \
        interception.objects--;                                                                                        \
        return __real_##name(object);                                                                                  \
    }
OPENCL_RELEASE_LIST(WRAP_RELEASE)

/* --------------------------------------------------------------------------------------------- host memory -- */

void *__real_moecl_allocate(size_t count, size_t size);
void *__wrap_moecl_allocate(size_t count, size_t size);
void *__wrap_moecl_allocate(size_t count, size_t size)
{
    if (fails("moecl_allocate", false))
        return NULL;
    interception.allocations++;
    interception.memory++;
    return __real_moecl_allocate(count, size);
}

void *__real_moecl_reallocate(void *memory, size_t count, size_t size);
void *__wrap_moecl_reallocate(void *memory, size_t count, size_t size);
void *__wrap_moecl_reallocate(void *memory, size_t count, size_t size)
{
    if (fails("moecl_reallocate", false))
        return NULL;
    interception.allocations++;
    interception.memory += memory == NULL;
    return __real_moecl_reallocate(memory, count, size);
}

void __real_moecl_free(void *memory);
void __wrap_moecl_free(void *memory);
void __wrap_moecl_free(void *memory)
{
    interception.memory -= memory != NULL;
    __real_moecl_free(memory);
}
