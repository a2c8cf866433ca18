/* SPDX-License-Identifier: Apache-2.0 */
/* convert.c - the storage types, and conversion between them by way of f32.
 *
 * The element functions are free of branches, so that compilers vectorise the loops over them. */
#include <string.h>

#include <moecl/moecl.h>

/* ---------------------------------------------------------------------------------------------------- types -- */

static const struct {
    const char *name;
    size_t size;
} types[] = {
#define TYPE(name, text, bytes) {text, bytes},
    MOECL_TYPE_LIST(TYPE)
#undef TYPE
};

#define TYPE_COUNT (sizeof(types) / sizeof(types[0]))

size_t moecl_type_size(moecl_type type)
{
    return (size_t)type < TYPE_COUNT ? types[type].size : 0;
}

const char *moecl_type_name(moecl_type type)
{
    return (size_t)type < TYPE_COUNT ? types[type].name : "unknown";
}

bool moecl_type_from_name(const char *name, moecl_type *type)
{
    for (size_t i = 0; name != NULL && i < TYPE_COUNT; i++) {
        if (strcmp(types[i].name, name) == 0) {
            *type = (moecl_type)i;
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------- elements -- */

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* By masks: of a conditional, gcc makes a branch as soon as floating-point arithmetic is in it. Magnitudes without
 * their sign fit a signed number, which is what SSE2 compares. */
static inline uint32_t choose(bool condition, uint32_t yes, uint32_t no)
{
    uint32_t mask = 0u - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

static inline float f32_from_bf16(uint16_t value)
{
    return float_of((uint32_t)value << 16);
}

static inline uint16_t bf16_from_f32(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t quiet = bits >> 16 | 0x40; /* rounding could make infinity of a NaN */
    return (uint16_t)choose((int32_t)(bits & 0x7fffffff) > 0x7f800000, quiet, rounded);
}

/* Both directions move the exponent by 112 = 127 - 15, the difference of the biases, and leave subnormals to the
 * floating-point unit: adding a power of two aligns the bits where they belong. */
static inline float f32_from_f16(uint16_t value)
{
    uint32_t magnitude = (uint32_t)(value & 0x7fff) << 13;
    uint32_t normal = magnitude + (112u << 23);
    uint32_t special = magnitude + (224u << 23); /* infinity, NaN: the largest exponent stays the largest */
    uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23));
    uint32_t result = choose((int32_t)magnitude < 0x00800000, subnormal, normal);
    result = choose((int32_t)magnitude >= 0x0f800000, special, result);
    return float_of(result | (uint32_t)(value & 0x8000) << 16);
}

static inline uint16_t f16_from_f32(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f); /* rounds at 2^-24 */
    uint32_t special = choose((int32_t)magnitude > 0x7f800000, 0x7e00, 0x7c00);
    uint32_t result = choose((int32_t)magnitude < 0x38800000, subnormal, normal);
    result = choose((int32_t)magnitude >= 0x47800000, special, result);
    return (uint16_t)(result | (bits >> 16 & 0x8000));
}

/* --------------------------------------------------------------------------------------------------- arrays -- */

/* Elements converted at a time: both copies stay in the first-level cache. */
enum { BLOCK = 512 };

typedef union {
    float f32[BLOCK];
    uint16_t u16[BLOCK];
} block;

static void load(const block *from, moecl_type type, float *to)
{
    switch (type) {
    case MOECL_F32:
        memcpy(to, from->f32, sizeof(from->f32));
        break;
    case MOECL_F16:
        for (size_t i = 0; i < BLOCK; i++)
            to[i] = f32_from_f16(from->u16[i]);
        break;
    case MOECL_BF16:
        for (size_t i = 0; i < BLOCK; i++)
            to[i] = f32_from_bf16(from->u16[i]);
        break;
    }
}

static void store(const float *from, moecl_type type, block *to)
{
    switch (type) {
    case MOECL_F32:
        memcpy(to->f32, from, sizeof(to->f32));
        break;
    case MOECL_F16:
        for (size_t i = 0; i < BLOCK; i++)
            to->u16[i] = f16_from_f32(from[i]);
        break;
    case MOECL_BF16:
        for (size_t i = 0; i < BLOCK; i++)
            to->u16[i] = bf16_from_f32(from[i]);
        break;
    }
}

/* Whole blocks are converted, the last one with what it held before behind the elements: the loops then have a fixed
 * length, and the copies in and out let the caller's memory be aligned as it likes. */
void moecl_convert(const void *from, moecl_type from_type, void *to, moecl_type to_type, size_t count)
{
    size_t from_size = moecl_type_size(from_type), to_size = moecl_type_size(to_type);
    if (from_type == to_type) {
        if (count > 0)
            memcpy(to, from, count * to_size);
        return;
    }
    block input = {{0}}, output;
    float values[BLOCK];
    for (size_t done = 0; done < count; done += BLOCK) {
        size_t n = count - done < BLOCK ? count - done : BLOCK;
        memcpy(&input, (const char *)from + done * from_size, n * from_size);
        load(&input, from_type, values);
        store(values, to_type, &output);
        memcpy((char *)to + done * to_size, &output, n * to_size);
    }
}
