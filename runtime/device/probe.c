/* SPDX-License-Identifier: Apache-2.0 */
/* probe.c - what only compiling and running a small kernel can tell about a device.
 *
 * Each probe is a kernel that uses one feature on values it cannot know before it runs, and writes what it found: 0 for
 * "not there" or a wrong result, else 1, or the size of its sub-groups. A program that does not build finds 0. */
#include "probe.h"

#include <string.h>

#include "amx.h"
#include "buffer.h"
#include "cache.h"
#include "describe.h"
#include "memory.h"
#include "program.h"

/* The parameters of a probe: in[i] is i, and the finding goes to *out. */
#define PROBE "kernel void probe(global const uint *in, global uint *out)\n"

static const char fp16_source[] = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n" PROBE "{\n"
                                  "    half a = (half)(float)(in[1] << 11), b = (half)(float)in[1];\n"
                                  "    half c = (half)(float)in[3] / (half)(float)in[2];\n"
                                  "    *out = (float)(a + b) == 2048.0f && (float)(c * c) == 2.25f;\n"
                                  "}\n";

static const char fp64_source[] = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" PROBE "{\n"
                                  "    double small = 1.0 / (double)((ulong)in[1] << 40);\n"
                                  "    double sum = (double)in[1] + small;\n"
                                  "    *out = sum - (double)in[1] == small;\n"
                                  "}\n";

/* Two ties, one to be rounded down, one up. */
static const char bf16_source[] = PROBE "{\n"
                                        "    float a = as_float(0x3f800000 + in[1] * 0x8000);\n"
                                        "    float b = as_float(0x3f800000 + in[3] * 0x8000);\n"
                                        "    ushort down = intel_convert_bfloat16_as_ushort(a);\n"
                                        "    ushort up = intel_convert_bfloat16_as_ushort(b);\n"
                                        "    float back = intel_convert_as_bfloat16_float(up);\n"
                                        "    *out = down == 0x3f80 && up == 0x3f82 && as_uint(back) == 0x3f820000;\n"
                                        "}\n";

/* (-128, -1, 127, 1) . (127, 2, -1, 3) and the same bytes taken as unsigned */
static const char integer_dot_source[] = PROBE "{\n"
                                               "    uint a = 0x80ff7f00 + in[1], b = 0x7f02ff00 + in[3];\n"
                                               "    *out = dot_4x8packed_ss_int(a, b) == -16382 &&\n"
                                               "           dot_4x8packed_uu_uint(a, b) == 49154;\n"
                                               "}\n";

/* Of x86: the processor is asked before an instruction is tried, since one that it does not know ends the process. */
#define X86_QUESTIONS                                                                                                  \
    "uint cpuid(uint leaf, uint subleaf, uint part)\n"                                                                 \
    "{\n"                                                                                                              \
    "    uint a = leaf, b, c = subleaf, d;\n"                                                                          \
    "    __asm__ volatile(\"cpuid\" : \"+a\"(a), \"=b\"(b), \"+c\"(c), \"=d\"(d));\n"                                  \
    "    return part == 0 ? a : part == 1 ? b : part == 2 ? c : d;\n"                                                  \
    "}\n"                                                                                                              \
    "bool system_keeps(uint registers)\n"                                                                              \
    "{\n"                                                                                                              \
    "    uint low, high;\n"                                                                                            \
    "    if (cpuid(0, 0, 0) < 7 || !(cpuid(1, 0, 2) >> 27 & 1))\n"                                                     \
    "        return false;\n"                                                                                          \
    "    __asm__ volatile(\"xgetbv\" : \"=a\"(low), \"=d\"(high) : \"c\"(0));\n"                                       \
    "    return (low & registers) == registers;\n"                                                                     \
    "}\n"

/* For other compilers. */
#define ELSE_NOTHING "#else\n" PROBE "{ *out = 0; }\n#endif\n"

/* vdpbf16ps, where the compiler has registers for it. Bits 1, 2, 5, 6 and 7 of XCR0 say that the system keeps them, bit
 * 16 of EBX of CPUID 7.0 is AVX512F, bit 5 of EAX of 7.1 AVX512-BF16. To 1 it adds (1 + i / 128) (1 + 1 / 128) + 2 * 3.
 */
static const char avx512_bf16_source[] =
    "#if defined(__x86_64__) && defined(__AVX512F__)\n" X86_QUESTIONS PROBE "{\n"
    "    uint16 pairs = (uint16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);\n"
    "    pairs = (pairs + 0x3f7f + in[1]) | 0x40000000;\n"
    "    uint other = 0x40400000 | (0x3f80 + in[1]);\n"
    "    float16 sum = (float16)((float)in[1]);\n"
    "    *out = 0;\n"
    "    if (!system_keeps(0xe6) || !(cpuid(7, 0, 1) >> 16 & 1) || cpuid(7, 0, 0) < 1 || !(cpuid(7, 1, 0) >> 5 & 1))\n"
    "        return;\n"
    "    __asm__(\"vdpbf16ps %2%{1to16%}, %1, %0\" : \"+v\"(sum) : \"v\"(pairs), \"m\"(other));\n"
    "    bool right = true;\n"
    "    float got[16];\n"
    "    vstore16(sum, 0, got);\n"
    "    for (uint i = 0; i < 16; i++)\n"
    "        right = right && got[i] == 7.0f + (1 + i / 128.0f) * (1 + 1 / 128.0f);\n"
    "    *out = right;\n"
    "}\n" ELSE_NOTHING;

/* AMX: a product of 16 rows, 16 columns and 16 pairs of small integers, added to ones, by the instructions that
 * cl/amx.cl has in words. Bits 17 and 18 of XCR0 are its registers, bits 22 and 24 of EDX of CPUID 7.0 AMX-BF16 and
 * AMX-TILE. */
static const char amx_bf16_source[] =
    "#if defined(__x86_64__)\n" X86_QUESTIONS "#define TILE(bytes) __asm__ volatile(\".byte 0xc4, 0xe2, \" bytes : : "
    "\"a\"((ulong)at), \"c\"(64ul) : \"memory\")\n" PROBE "{\n"
    "    if (get_global_id(0) > 0)\n"
    "        return;\n"
    "    *out = 0;\n"
    "    if (!system_keeps(0x60000) || (cpuid(7, 0, 3) >> 22 & 5) != 5)\n"
    "        return;\n"
    "    ushort a[16 * 32], b[16 * 32];\n"
    "    float sums[16 * 16];\n"
    "    uchar configuration[64];\n"
    "    for (uint i = 0; i < 64; i++)\n"
    "        configuration[i] = i == 0 ? 1 : i >= 48 && i < 51 ? 16 : i == 16 || i == 18 || i == 20 ? 64 : 0;\n"
    "    for (uint i = 0; i < 512; i++) {\n"
    "        a[i] = as_uint((float)(i * 7 % 11 * in[1])) >> 16;\n"
    "        b[i] = as_uint((float)(i * 5 % 13 * in[1])) >> 16;\n"
    "    }\n"
    "    for (uint i = 0; i < 256; i++)\n"
    "        sums[i] = 1.0f;\n"
    "    void *at = configuration;\n"
    "    TILE(\"0x78, 0x49, 0x00\");\n"
    "    at = sums;\n"
    "    TILE(\"0x7b, 0x4b, 0x04, 0x08\");\n"
    "    at = a;\n"
    "    TILE(\"0x7b, 0x4b, 0x0c, 0x08\");\n"
    "    at = b;\n"
    "    TILE(\"0x7b, 0x4b, 0x14, 0x08\");\n"
    "    TILE(\"0x6a, 0x5c, 0xc1\");\n"
    "    at = sums;\n"
    "    TILE(\"0x7a, 0x4b, 0x04, 0x08\");\n"
    "    TILE(\"0x78, 0x49, 0xc0\");\n"
    "    bool right = true;\n"
    "    for (uint i = 0; i < 256; i++) {\n"
    "        uint sum = 1;\n"
    "        for (uint k = 0; k < 32; k++)\n"
    "            sum += (i / 16 * 32 + k) * 7 % 11 * ((k / 2 * 32 + i % 16 * 2 + k % 2) * 5 % 13);\n"
    "        right = right && sums[i] == sum;\n"
    "    }\n"
    "    *out = right;\n"
    "}\n" ELSE_NOTHING;

/* With SIZE the compiler is told which size to use; one that ignores it finds another size or 0. */
static const char subgroup_source[] =
    "#ifdef cl_khr_subgroups\n"
    "#pragma OPENCL EXTENSION cl_khr_subgroups : enable\n"
    "#endif\n"
    "#ifdef SIZE\n"
    "__attribute__((intel_reqd_sub_group_size(SIZE)))\n"
    "#endif\n" PROBE "{\n"
    "    uint size = get_sub_group_size();\n"
    "    uint sum = sub_group_reduce_add(in[1]);\n"
    "    bool even = size <= 128 && (size & (size - 1)) == 0;\n"
    "    if (get_global_id(0) == 0)\n"
    "        *out = even && sum == size && get_max_sub_group_size() == size ? size : 0;\n"
    "}\n";

/* A row is tried where an extension's name begins with `extension`: compilers and simulators have been seen to take the
 * process down over what their device does not know. Whether the feature is there is for the kernel to say. Several
 * rows may find the same member. A kernel that wants a feature is built with the options of the row that finds it. */
static const struct probe {
    size_t member; /* of moecl_device_info, a bool */
    const char *extension;
    const char *options;
    const char *source;
} probes[] = {
#define MEMBER(name) offsetof(moecl_device_info, name)
    {MEMBER(fp16), "cl_khr_fp16", "", fp16_source},
    {MEMBER(fp16), "cl_nv_", "", fp16_source}, /* has it, but does not list it */
    {MEMBER(fp64), "cl_khr_fp64", "", fp64_source},
    {MEMBER(bf16), "cl_intel_bfloat16", "", bf16_source},
    {MEMBER(integer_dot), "cl_khr_integer_dot_product", "-cl-std=CL3.0", integer_dot_source},
    {MEMBER(avx512_bf16), "", "", avx512_bf16_source},
    {MEMBER(amx_bf16), "", "", amx_bf16_source},
    {MEMBER(subgroups), "cl_intel_subgroups", "", subgroup_source},
    {MEMBER(subgroups), "cl_khr_subgroups", "-cl-std=CL2.0", subgroup_source},
    {MEMBER(subgroups), "cl_khr_subgroups", "-cl-std=CL3.0", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=1", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=2", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=4", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=8", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=16", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=32", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=64", subgroup_source},
    {MEMBER(subgroups), "cl_intel_required_subgroup_size", "-DSIZE=128", subgroup_source},
#undef MEMBER
};

/* Builds the probe and runs it as one group of 128 work-items (or what the device allows), on a queue of its own: the
 * caller's may be full of work. */
static moecl_status run(struct moecl_context *context, const struct probe *probe, cl_uint *found)
{
    moecl_status status = MOECL_OK;
    struct moecl_error *error = &context->error;
    const cl_uint in[] = {0, 1, 2, 3};
    const cl_uint nothing = 0;
    const size_t items = context->info.max_work_group < 128 ? context->info.max_work_group : 128;
    cl_command_queue queue = NULL;
    cl_program program = NULL;
    cl_kernel kernel = NULL;
    cl_mem input = NULL, output = NULL;

    TRY(moecl_program_build_source(context, probe->source, probe->options, &program));
    CL_NEW(error, kernel, clCreateKernel(program, "probe", &cl_code));
    CL_NEW(error, queue, clCreateCommandQueue(context->cl, context->device, 0, &cl_code));
    TRY(moecl_buffer_create(context, CL_MEM_READ_ONLY, sizeof(in), "a probe", &input));
    TRY(moecl_buffer_create(context, CL_MEM_READ_WRITE, sizeof(*found), "a probe", &output));
    CL_TRY(error, clEnqueueWriteBuffer(queue, input, CL_TRUE, 0, sizeof(in), in, 0, NULL, NULL));
    CL_TRY(error, clEnqueueWriteBuffer(queue, output, CL_TRUE, 0, sizeof(nothing), &nothing, 0, NULL, NULL));
    CL_TRY(error, clSetKernelArg(kernel, 0, sizeof(cl_mem), &input));
    CL_TRY(error, clSetKernelArg(kernel, 1, sizeof(cl_mem), &output));
    CL_TRY(error, clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, &items, 0, NULL, NULL));
    CL_TRY(error, clEnqueueReadBuffer(queue, output, CL_TRUE, 0, sizeof(*found), found, 0, NULL, NULL));
out:
    moecl_buffer_release(input);
    moecl_buffer_release(output);
    if (queue != NULL)
        clReleaseCommandQueue(queue);
    if (kernel != NULL)
        clReleaseKernel(kernel);
    if (program != NULL)
        clReleaseProgram(program);
    return status;
}

/* The probe's finding, from the cache or by running it. A device that fails in any way but for want of host memory has
 * not got the feature; only what compiler or kernel said is kept in the cache. */
static moecl_status find(struct moecl_context *context, const char *device_key, const struct probe *probe,
                         cl_uint *found)
{
    moecl_status status = MOECL_OK;
    void *cached = NULL;
    size_t size;
    char *key = moecl_format("%s\n%s\n%s", device_key, probe->options, probe->source);
    if (key == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for a probe");
    if (moecl_cache_load(context, "probe", key, strlen(key), &cached, &size) && size == sizeof(*found)) {
        memcpy(found, cached, sizeof(*found));
        goto out;
    }
    *found = 0;
    status = run(context, probe, found);
    if (status == MOECL_OK || status == MOECL_BUILD_FAILED)
        moecl_cache_store(context, "probe", key, strlen(key), found, sizeof(*found));
    if (status != MOECL_OUT_OF_HOST_MEMORY)
        status = MOECL_OK;
out:
    moecl_free(cached);
    moecl_free(key);
    return status;
}

/* Whether one of the blank-separated names begins with `extension`. */
static bool is_listed(const char *extensions, const char *extension)
{
    const char *at = extensions;
    while ((at = strstr(at, extension)) != NULL) {
        if (at == extensions || at[-1] == ' ')
            return true;
        at++;
    }
    return false;
}

moecl_status moecl_probe_device(struct moecl_context *context)
{
    moecl_status status = MOECL_OK;
    char *device_key = NULL, *extensions = NULL;
    TRY(moecl_context_require_device(context));
    if (context->info.probed)
        return MOECL_OK;

    const struct moecl_error before = context->error; /* a probe's failure is none of the context's */
    moecl_device_info info = context->info;
    device_key = moecl_device_key(context);
    if (device_key == NULL)
        FAIL(&context->error, MOECL_OUT_OF_HOST_MEMORY, "no host memory for the device's probes");
    TRY(moecl_device_text(&context->error, context->device, CL_DEVICE_EXTENSIONS, &extensions));
    for (size_t i = 0; i < sizeof(probes) / sizeof(probes[0]); i++) {
        cl_uint found = 0;
        if (probes[i].source == amx_bf16_source && !moecl_amx_permit())
            continue;
        if (is_listed(extensions, probes[i].extension))
            TRY(find(context, device_key, &probes[i], &found));
        if (found == 0)
            continue;
        *(bool *)((char *)&info + probes[i].member) = true;
        if (probes[i].source == subgroup_source)
            info.subgroup_sizes |= found; /* a power of two is its own bit */
    }
    info.probed = true;
    context->info = info;
    context->error = before;
out:
    moecl_free(device_key);
    moecl_free(extensions);
    return status;
}
