/* SPDX-License-Identifier: Apache-2.0 */
/* program.c - OpenCL programs: found in the context, else in the disk cache, else built from source. */
#include "program.h"

#include <stdio.h>
#include <string.h>

#include "cache.h"
#include "memory.h"

/* A program of the context's list. `file` and `options` identify it there. */
struct moecl_program {
    struct moecl_program *next;
    char *file, *options;
    cl_program program;
};

static void release_program(struct moecl_program *program)
{
    if (program == NULL)
        return;
    if (program->program != NULL)
        clReleaseProgram(program->program);
    moecl_free(program->file);
    moecl_free(program->options);
    moecl_free(program);
}

void moecl_programs_release(struct moecl_context *context)
{
    while (context->programs != NULL) {
        struct moecl_program *program = context->programs;
        context->programs = program->next;
        release_program(program);
    }
}

/* ---------------------------------------------------------------------------------------------------- source -- */

/* The text of cl/`file` in fresh memory. */
#ifdef MOECL_KERNEL_DIR
static moecl_status read_source(struct moecl_context *context, const char *file, char **text)
{
    enum { BLOCK = 1 << 16 };
    moecl_status status = MOECL_OK;
    char *content = NULL, *grown = NULL;
    size_t size = 0;
    FILE *stream = NULL;
    char *path = moecl_format("%s/%s", MOECL_KERNEL_DIR, file);
    if (path == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for a path");
    stream = fopen(path, "rb");
    if (stream == NULL)
        FAIL(&context->error, MOECL_INVALID_ARGUMENT, "there is no OpenCL source %s", path);
    do {
        grown = moecl_reallocate(content, size + BLOCK + 1, 1);
        if (grown == NULL)
            FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the source %s", path);
        content = grown;
        size += fread(content + size, 1, BLOCK, stream);
    } while (!feof(stream) && !ferror(stream));
    if (ferror(stream))
        FAIL(&context->error, MOECL_FILE_ERROR, "%s: it cannot be read", path);
    content[size] = 0;
    *text = content;
    content = NULL;
out:
    if (stream != NULL)
        fclose(stream);
    moecl_free(content);
    moecl_free(path);
    return status;
}
#else
static moecl_status read_source(struct moecl_context *context, const char *file, char **text)
{
    const struct moecl_kernel_source *source = moecl_kernel_sources;
    while (source->name != NULL && strcmp(source->name, file) != 0)
        source++;
    if (source->name == NULL)
        return moecl_error_set(&context->error, MOECL_INVALID_ARGUMENT, "there is no OpenCL source %s", file);
    *text = moecl_duplicate(source->text);
    if (*text == NULL)
        return moecl_error_set(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the source %s", file);
    return MOECL_OK;
}
#endif

/* Appends cl/`file` to the source. With #line, the compiler speaks of the file's own lines. */
static moecl_status append_source(struct moecl_context *context, const char *file, char **source)
{
    moecl_status status = MOECL_OK;
    char *text = NULL;
    TRY(read_source(context, file, &text));
    char *longer = moecl_format("%s#line 1 \"%s\"\n%s\n", *source ? *source : "", file, text);
    if (longer == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the source %s", file);
    moecl_free(*source);
    *source = longer;
out:
    moecl_free(text);
    return status;
}

/* cl/common.cl followed by each of `files`, in fresh memory. */
static moecl_status assemble_source(struct moecl_context *context, const char *files, char **source)
{
    moecl_status status = MOECL_OK;
    char *names = moecl_duplicate(files), *rest = names;
    if (names == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the source %s", files);
    TRY(append_source(context, "common.cl", source));
    while (rest != NULL) {
        char *name = rest;
        rest = strchr(rest, ' ');
        if (rest != NULL)
            *rest++ = 0;
        TRY(append_source(context, name, source));
    }
out:
    moecl_free(names);
    return status;
}

/* The options as the compiler gets them, in fresh memory. */
static char *full_options(const char *options)
{
    if (options == NULL || *options == 0)
        return moecl_duplicate("-cl-std=CL1.2 -w");
    if (strstr(options, "-cl-std=") != NULL)
        return moecl_duplicate(options);
    return moecl_format("-cl-std=CL1.2 -w %s", options);
}

/* ----------------------------------------------------------------------------------------------------- build -- */

/* Sets the sentence for a failed build of `what`: the compiler's log, or the beginning of it. */
static moecl_status build_failure(struct moecl_context *context, cl_program program, cl_int code, const char *what,
                                  const char *options)
{
    if (code != CL_BUILD_PROGRAM_FAILURE && code != CL_INVALID_BUILD_OPTIONS) {
        moecl_status status = moecl_error_opencl(&context->error, code, "clBuildProgram");
        return moecl_error_append(&context->error, status, " (%s)", what);
    }
    size_t size = 0;
    char *log = NULL;
    if (clGetProgramBuildInfo(program, context->device, CL_PROGRAM_BUILD_LOG, 0, NULL, &size) == CL_SUCCESS)
        log = moecl_allocate(size + 1, 1);
    if (log != NULL &&
        clGetProgramBuildInfo(program, context->device, CL_PROGRAM_BUILD_LOG, size, log, NULL) != CL_SUCCESS)
        log[0] = 0;
    moecl_error_set(&context->error, MOECL_BUILD_FAILED, "%s does not build on %s / %s (%s, options %s): %s", what,
                    context->info.platform, context->info.name, moecl_opencl_code_name(code), options,
                    log == NULL ? "no log" : log);
    moecl_free(log);
    return MOECL_BUILD_FAILED;
}

/* Builds with the options as they are. */
static moecl_status build(struct moecl_context *context, const char *what, const char *source, const char *options,
                          cl_program *program)
{
    moecl_status status = MOECL_OK;
    cl_program built = NULL;
    CL_NEW(&context->error, built, clCreateProgramWithSource(context->cl, 1, &source, NULL, &cl_code));
    cl_int code = clBuildProgram(built, 1, &context->device, options, NULL, NULL);
    if (code != CL_SUCCESS) {
        status = build_failure(context, built, code, what, options);
        goto out;
    }
    *program = built;
    built = NULL;
out:
    if (built != NULL)
        clReleaseProgram(built);
    return status;
}

moecl_status moecl_program_build_source(struct moecl_context *context, const char *source, const char *options,
                                        cl_program *program)
{
    moecl_status status = MOECL_OK;
    char *full = full_options(options);
    if (full == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for build options");
    TRY(build(context, "an OpenCL program", source, full, program));
out:
    moecl_free(full);
    return status;
}

/* -------------------------------------------------------------------------------------------------- binaries -- */

/* The key of a program in the disk cache; NULL when there is no memory, which only means no cache. */
static char *program_key(const struct moecl_context *context, const char *source, const char *options)
{
    char *key = NULL;
    char *device = moecl_device_key(context);
    if (device != NULL)
        key = moecl_format("%s\n%s\n%s", device, options, source);
    moecl_free(device);
    return key;
}

/* A program from the disk cache, NULL if it is not there or the driver does not take it. */
static cl_program load_binary(struct moecl_context *context, const char *key, const char *options)
{
    void *binary;
    size_t size;
    if (!moecl_cache_load(context, "program", key, strlen(key), &binary, &size))
        return NULL;
    cl_int binary_code = CL_SUCCESS, code = CL_SUCCESS;
    const unsigned char *bytes = binary;
    cl_program program =
        clCreateProgramWithBinary(context->cl, 1, &context->device, &size, &bytes, &binary_code, &code);
    moecl_free(binary);
    if (code != CL_SUCCESS)
        return NULL;
    if (binary_code != CL_SUCCESS || clBuildProgram(program, 1, &context->device, options, NULL, NULL) != CL_SUCCESS) {
        clReleaseProgram(program);
        return NULL;
    }
    return program;
}

/* Puts a built program's binary into the disk cache; where anything fails, it is not there. The program may span all
 * devices of the caller's OpenCL context, of which only ours is built. */
static void store_binary(struct moecl_context *context, const char *key, cl_program program)
{
    cl_uint count = 0, ours = 0;
    cl_device_id *devices = NULL;
    size_t *sizes = NULL;
    unsigned char **binaries = NULL, *binary = NULL;
    if (clGetProgramInfo(program, CL_PROGRAM_NUM_DEVICES, sizeof(count), &count, NULL) != CL_SUCCESS)
        return;
    devices = moecl_allocate(count, sizeof(*devices));
    sizes = moecl_allocate(count, sizeof(*sizes));
    binaries = moecl_allocate(count, sizeof(*binaries));
    if (devices == NULL || sizes == NULL || binaries == NULL ||
        clGetProgramInfo(program, CL_PROGRAM_DEVICES, count * sizeof(*devices), devices, NULL) != CL_SUCCESS ||
        clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, count * sizeof(*sizes), sizes, NULL) != CL_SUCCESS)
        goto out;
    while (ours < count && devices[ours] != context->device)
        ours++;
    if (ours == count || sizes[ours] == 0)
        goto out;
    binary = moecl_allocate(sizes[ours], 1);
    binaries[ours] = binary;
    if (binary != NULL &&
        clGetProgramInfo(program, CL_PROGRAM_BINARIES, count * sizeof(*binaries), binaries, NULL) == CL_SUCCESS)
        moecl_cache_store(context, "program", key, strlen(key), binary, sizes[ours]);
out:
    moecl_free(binary);
    moecl_free(binaries);
    moecl_free(sizes);
    moecl_free(devices);
}

/* --------------------------------------------------------------------------------------------------- kernels -- */

static moecl_status build_file(struct moecl_context *context, const char *file, const char *options,
                               cl_program *program)
{
    moecl_status status = MOECL_OK;
    char *source = NULL, *key = NULL;
    TRY(assemble_source(context, file, &source));
    key = program_key(context, source, options);
    *program = key == NULL ? NULL : load_binary(context, key, options);
    if (*program != NULL)
        goto out;
    TRY(build(context, file, source, options, program));
    if (key != NULL)
        store_binary(context, key, *program);
out:
    moecl_free(key);
    moecl_free(source);
    return status;
}

static moecl_status add_program(struct moecl_context *context, const char *file, const char *options,
                                struct moecl_program **added)
{
    moecl_status status = MOECL_OK;
    struct moecl_program *program = moecl_allocate(1, sizeof(*program));
    if (program != NULL) {
        program->file = moecl_duplicate(file);
        program->options = moecl_duplicate(options);
    }
    if (program == NULL || program->file == NULL || program->options == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the program %s", file);
    TRY(build_file(context, file, options, &program->program));
    program->next = context->programs;
    context->programs = program;
    *added = program;
    program = NULL;
out:
    release_program(program);
    return status;
}

/* The program of `file` and `options`, owned by the context. */
static moecl_status find_program(struct moecl_context *context, const char *file, const char *options,
                                 struct moecl_program **found)
{
    moecl_status status = MOECL_OK;
    struct moecl_program *program = context->programs;
    char *full = full_options(options);
    if (full == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for build options");
    while (program != NULL && (strcmp(program->file, file) != 0 || strcmp(program->options, full) != 0))
        program = program->next;
    if (program == NULL)
        TRY(add_program(context, file, full, &program));
    *found = program;
out:
    moecl_free(full);
    return status;
}

moecl_status moecl_kernel_create(struct moecl_context *context, const char *file, const char *options,
                                 const char *kernel, cl_kernel *created)
{
    moecl_status status = MOECL_OK;
    struct moecl_program *program = NULL;
    cl_kernel object = NULL;
    TRY(moecl_context_require_device(context));
    TRY(find_program(context, file, options, &program));
    CL_NEW(&context->error, object, clCreateKernel(program->program, kernel, &cl_code));
    *created = object;
out:
    if (status == MOECL_OPENCL_ERROR)
        moecl_error_append(&context->error, status, " (kernel %s of %s)", kernel, file);
    return status;
}
