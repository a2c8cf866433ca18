/* SPDX-License-Identifier: Apache-2.0 */
/* opencl_functions.h - every OpenCL entry point that runtime/ calls, so that tests can stand between (interception.h).
 *
 * CMake reads the names off the lines below; tests/lint fails when a call in runtime/ has no line here.
 * A row is X(name, ..., parameters, arguments), in lists by how the function reports and what it hands out. */
#ifndef MOECL_TEST_OPENCL_FUNCTIONS_H
#define MOECL_TEST_OPENCL_FUNCTIONS_H

#include <CL/cl.h>

/* Return a code. X(name, blocks, parameters, arguments): `blocks` tells whether this call waits for the device. */
#define OPENCL_CODE_LIST(X)                                                                                            \
    X(clGetPlatformIDs, false, (cl_uint entries, cl_platform_id * platforms, cl_uint * count),                         \
      (entries, platforms, count))                                                                                     \
    X(clGetPlatformInfo, false,                                                                                        \
      (cl_platform_id platform, cl_platform_info name, size_t size, void *value, size_t *needed),                      \
      (platform, name, size, value, needed))                                                                           \
    X(clGetDeviceIDs, false,                                                                                           \
      (cl_platform_id platform, cl_device_type type, cl_uint entries, cl_device_id * devices, cl_uint * count),        \
      (platform, type, entries, devices, count))                                                                       \
    X(clGetDeviceInfo, false, (cl_device_id device, cl_device_info name, size_t size, void *value, size_t *needed),    \
      (device, name, size, value, needed))                                                                             \
    X(clGetContextInfo, false, (cl_context context, cl_context_info name, size_t size, void *value, size_t *needed),   \
      (context, name, size, value, needed))                                                                            \
    X(clGetCommandQueueInfo, false,                                                                                    \
      (cl_command_queue queue, cl_command_queue_info name, size_t size, void *value, size_t *needed),                  \
      (queue, name, size, value, needed))                                                                              \
    X(clGetMemObjectInfo, false, (cl_mem memory, cl_mem_info name, size_t size, void *value, size_t *needed),          \
      (memory, name, size, value, needed))                                                                             \
    X(clGetProgramInfo, false, (cl_program program, cl_program_info name, size_t size, void *value, size_t *needed),   \
      (program, name, size, value, needed))                                                                            \
    X(clGetProgramBuildInfo, false,                                                                                    \
      (cl_program program, cl_device_id device, cl_program_build_info name, size_t size, void *value, size_t *needed), \
      (program, device, name, size, value, needed))                                                                    \
    X(clGetKernelInfo, false, (cl_kernel kernel, cl_kernel_info name, size_t size, void *value, size_t *needed),       \
      (kernel, name, size, value, needed))                                                                             \
    X(clGetKernelWorkGroupInfo, false,                                                                                 \
      (cl_kernel kernel, cl_device_id device, cl_kernel_work_group_info name, size_t size, void *value,                \
       size_t *needed),                                                                                                \
      (kernel, device, name, size, value, needed))                                                                     \
    X(clGetEventProfilingInfo, false,                                                                                  \
      (cl_event event, cl_profiling_info name, size_t size, void *value, size_t *needed),                              \
      (event, name, size, value, needed))                                                                              \
    X(clBuildProgram, false,                                                                                           \
      (cl_program program, cl_uint count, const cl_device_id *devices, const char *options,                            \
       void(CL_CALLBACK * notify)(cl_program, void *), void *data),                                                    \
      (program, count, devices, options, notify, data))                                                                \
    X(clSetKernelArg, false, (cl_kernel kernel, cl_uint index, size_t size, const void *value),                        \
      (kernel, index, size, value))                                                                                    \
    X(clFlush, false, (cl_command_queue queue), (queue))                                                               \
    X(clFinish, true, (cl_command_queue queue), (queue))                                                               \
    X(clWaitForEvents, true, (cl_uint count, const cl_event *events), (count, events))

/* Queue a command, return a code and, where the caller wants one, an event.
 * X(name, blocks, parameters, arguments): the last parameter is the event. */
#define OPENCL_QUEUE_LIST(X)                                                                                           \
    X(clEnqueueNDRangeKernel, false,                                                                                   \
      (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset, const size_t *global,       \
       const size_t *local, cl_uint count, const cl_event *wait, cl_event *event),                                     \
      (queue, kernel, dimensions, offset, global, local, count, wait, event))                                          \
    X(clEnqueueNativeKernel, false,                                                                                    \
      (cl_command_queue queue, void(CL_CALLBACK * function)(void *), void *arguments, size_t size, cl_uint memories,   \
       const cl_mem *list, const void **places, cl_uint count, const cl_event *wait, cl_event *event),                 \
      (queue, function, arguments, size, memories, list, places, count, wait, event))                                  \
    X(clEnqueueReadBuffer, blocking == CL_TRUE,                                                                        \
      (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size, void *to, cl_uint count,   \
       const cl_event *wait, cl_event *event),                                                                         \
      (queue, memory, blocking, offset, size, to, count, wait, event))                                                 \
    X(clEnqueueWriteBuffer, blocking == CL_TRUE,                                                                       \
      (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size, const void *from,          \
       cl_uint count, const cl_event *wait, cl_event *event),                                                          \
      (queue, memory, blocking, offset, size, from, count, wait, event))                                               \
    X(clEnqueueCopyBuffer, false,                                                                                      \
      (cl_command_queue queue, cl_mem from, cl_mem to, size_t from_offset, size_t to_offset, size_t size,              \
       cl_uint count, const cl_event *wait, cl_event *event),                                                          \
      (queue, from, to, from_offset, to_offset, size, count, wait, event))                                             \
    X(clEnqueueCopyBufferRect, false,                                                                                  \
      (cl_command_queue queue, cl_mem from, cl_mem to, const size_t *from_origin, const size_t *to_origin,             \
       const size_t *region, size_t from_row, size_t from_slice, size_t to_row, size_t to_slice, cl_uint count,        \
       const cl_event *wait, cl_event *event),                                                                         \
      (queue, from, to, from_origin, to_origin, region, from_row, from_slice, to_row, to_slice, count, wait, event))   \
    X(clEnqueueFillBuffer, false,                                                                                      \
      (cl_command_queue queue, cl_mem memory, const void *pattern, size_t pattern_size, size_t offset, size_t size,    \
       cl_uint count, const cl_event *wait, cl_event *event),                                                          \
      (queue, memory, pattern, pattern_size, offset, size, count, wait, event))                                        \
    X(clEnqueueMarkerWithWaitList, false,                                                                              \
      (cl_command_queue queue, cl_uint count, const cl_event *wait, cl_event *event), (queue, count, wait, event))     \
    X(clEnqueueBarrierWithWaitList, false,                                                                             \
      (cl_command_queue queue, cl_uint count, const cl_event *wait, cl_event *event), (queue, count, wait, event))

/* Return a new object and write the code last. X(name, type, parameters, arguments) */
#define OPENCL_OBJECT_LIST(X)                                                                                          \
    X(clCreateContext, cl_context,                                                                                     \
      (const cl_context_properties *properties, cl_uint count, const cl_device_id *devices,                            \
       void(CL_CALLBACK * notify)(const char *, const void *, size_t, void *), void *data, cl_int *code),              \
      (properties, count, devices, notify, data, code))                                                                \
    X(clCreateCommandQueue, cl_command_queue,                                                                          \
      (cl_context context, cl_device_id device, cl_command_queue_properties properties, cl_int * code),                \
      (context, device, properties, code))                                                                             \
    X(clCreateBuffer, cl_mem, (cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *code),         \
      (context, flags, size, host, code))                                                                              \
    X(clCreateProgramWithSource, cl_program,                                                                           \
      (cl_context context, cl_uint count, const char **texts, const size_t *lengths, cl_int *code),                    \
      (context, count, texts, lengths, code))                                                                          \
    X(clCreateProgramWithBinary, cl_program,                                                                           \
      (cl_context context, cl_uint count, const cl_device_id *devices, const size_t *lengths,                          \
       const unsigned char **binaries, cl_int *binary_codes, cl_int *code),                                            \
      (context, count, devices, lengths, binaries, binary_codes, code))                                                \
    X(clCreateKernel, cl_kernel, (cl_program program, const char *name, cl_int *code), (program, name, code))

/* Return memory mapped into the host and write the code last; the event stands before it. */
#define OPENCL_MAP_LIST(X)                                                                                             \
    X(clEnqueueMapBuffer, blocking == CL_TRUE,                                                                         \
      (cl_command_queue queue, cl_mem memory, cl_bool blocking, cl_map_flags flags, size_t offset, size_t size,        \
       cl_uint count, const cl_event *wait, cl_event *event, cl_int *code),                                            \
      (queue, memory, blocking, flags, offset, size, count, wait, event, code))

/* Gives the mapping back; one that is made to fail gives it back all the same, or the driver would keep it for good. */
#define OPENCL_UNMAP_LIST(X)                                                                                           \
    X(clEnqueueUnmapMemObject, false,                                                                                  \
      (cl_command_queue queue, cl_mem memory, void *mapped, cl_uint count, const cl_event *wait, cl_event *event),     \
      (queue, memory, mapped, count, wait, event))

/* Add one to or take one from an object's references. X(name, type) */
#define OPENCL_RETAIN_LIST(X)                                                                                          \
    X(clRetainDevice, cl_device_id)                                                                                    \
    X(clRetainContext, cl_context)                                                                                     \
    X(clRetainCommandQueue, cl_command_queue)                                                                          \
    X(clRetainMemObject, cl_mem)                                                                                       \
    X(clRetainEvent, cl_event)
#define OPENCL_RELEASE_LIST(X)                                                                                         \
    X(clReleaseDevice, cl_device_id)                                                                                   \
    X(clReleaseContext, cl_context)                                                                                    \
    X(clReleaseCommandQueue, cl_command_queue)                                                                         \
    X(clReleaseMemObject, cl_mem)                                                                                      \
    X(clReleaseProgram, cl_program)                                                                                    \
    X(clReleaseKernel, cl_kernel)                                                                                      \
    X(clReleaseEvent, cl_event)

#endif
