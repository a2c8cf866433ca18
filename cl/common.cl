/* SPDX-License-Identifier: Apache-2.0 */
/* common.cl - put in front of every program: views of buffers, and the storage types.
 *
 * A buffer argument is a pair (NAME_memory, NAME_offset): base and offset in bytes, since sub-buffers have alignment
 * rules that differ by device. VIEW(type, NAME) is the typed pointer.
 *
 * Storage types are f32, f16 (IEEE binary16) and bf16 (upper half of binary32). f16 goes through
 * vload_half and vstore_half, which need no extension. Every conversion is exact, or rounds to nearest even; NaN stays
 * NaN. A program picks its types with -D, and CALL(load16, WEIGHT_TYPE) becomes load16_bf16 and so on. */
#pragma OPENCL FP_CONTRACT ON

#define VIEW(type, name) ((__global type *)((__global uchar *)name##_memory + name##_offset))

#define PASTE(a, b) a##_##b
#define CALL(function, type) PASTE(function, type)

/* What a forward pass may find wrong with its data; bits of the flag word. */
#define FLAG_NOT_FINITE 1u
#define FLAG_BAD_EXPERT 2u

inline bool is_finite(float value)
{
    return (as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

inline ushort to_bf16(float value)
{
    const uint bits = as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (ushort)((bits >> 16) | 0x0040u);
    return (ushort)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* load: one element.  load16: sixteen in a row.  store: one element.  store8, store16: so many in a row. `ELEMENT_type`
 * is what a pointer points to.
 *
 * store_float8 and the like are vstore8() and the like, which PoCL makes of stores of four elements: where kernels
 * become the processor's code at once, one store. */
#define ELEMENT_f32 float
#define ELEMENT_f16 ushort
#define ELEMENT_bf16 ushort
#define ELEMENT(type) PASTE(ELEMENT, type)

inline float load_f32(__global const float *from)
{
    return *from;
}
inline float load_f16(__global const ushort *from)
{
    return vload_half(0, (__global const half *)from);
}
inline float load_bf16(__global const ushort *from)
{
    return as_float((uint)*from << 16);
}
inline float16 load16_f32(__global const float *from)
{
    return vload16(0, from);
}
#ifdef __AVX512F__
/* One instruction, where vload_half16() is six. */
inline float16 load16_f16(__global const ushort *from)
{
    typedef ushort16 unaligned_ushort16 __attribute__((aligned(2)));
    float16 values;
    __asm__("vcvtph2ps %1, %0" : "=v"(values) : "m"(*(__global const unaligned_ushort16 *)from));
    return values;
}
#else
inline float16 load16_f16(__global const ushort *from)
{
    return vload_half16(0, (__global const half *)from);
}
#endif
inline float16 load16_bf16(__global const ushort *from)
{
    return as_float16(convert_uint16(vload16(0, from)) << 16);
}
inline void store_f32(__global float *to, float value)
{
    *to = value;
}
inline void store_f16(__global ushort *to, float value)
{
    vstore_half_rte(value, 0, (__global half *)to);
}
inline void store_bf16(__global ushort *to, float value)
{
    *to = to_bf16(value);
}
#if defined(__x86_64__) || defined(__aarch64__)
#define DEFINE_STORE(n, type)                                                                                          \
    typedef type##n unaligned_##type##n __attribute__((aligned(2)));                                                   \
    inline void store_##type##n(type##n values, __global type *to)                                                     \
    {                                                                                                                  \
        *(__global unaligned_##type##n *)to = values;                                                                  \
    }
#else
#define DEFINE_STORE(n, type)                                                                                          \
    inline void store_##type##n(type##n values, __global type *to)                                                     \
    {                                                                                                                  \
        vstore##n(values, 0, to);                                                                                      \
    }
#endif
DEFINE_STORE(8, float)
DEFINE_STORE(16, float)
DEFINE_STORE(8, ushort)
DEFINE_STORE(16, ushort)

#define DEFINE_STORES(n)                                                                                               \
    inline void store##n##_f32(__global float *to, float##n values)                                                    \
    {                                                                                                                  \
        store_float##n(values, to);                                                                                    \
    }                                                                                                                  \
    inline void store##n##_f16(__global ushort *to, float##n values)                                                   \
    {                                                                                                                  \
        vstore_half##n##_rte(values, 0, (__global half *)to);                                                          \
    }                                                                                                                  \
    inline void store##n##_bf16(__global ushort *to, float##n values)                                                  \
    {                                                                                                                  \
        const uint##n bits = as_uint##n(values);                                                                       \
        const uint##n rounded = bits + 0x7fffu + ((bits >> 16) & 1u);                                                  \
        const int##n is_nan = (bits & 0x7fffffffu) > 0x7f800000u;                                                      \
        store_ushort##n(convert_ushort##n((is_nan ? bits | 0x400000u : rounded) >> 16), to);                           \
    }
DEFINE_STORES(8)
DEFINE_STORES(16)
