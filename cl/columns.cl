/* SPDX-License-Identifier: Apache-2.0 */
/* columns.cl - columns of one row of a product on their way out: biases, the expert's function, and the form of C;
 * stands behind activation.cl and in front of the variants that read weights in panels.
 *
 * Shapes: C [rows,N] in expert order. Columns come in two vectors of FUNCTION_WIDTH: of a plain product, columns and
 * those that follow; gated, columns of gate and the same ones of up. Columns past N are not stored. No kernels, so no
 * launch.
 *
 * Forms of C:
 *   rows, activated rows, linear    the row's columns lie together
 *   activated, packed               the row's columns lie `stride` apart: a tile of the next product's A is
 *
 *                                   [k=0: r0 r1 .. | k=1: r0 r1 .. | ..]
 *
 * Deterministic: elementwise. */

/* What the next product's A is packed in: f32, or bf16, of which a value may have two PIECES: the nearest, and the
 * upper half of what is left. They are all of an f16 value, and the upper 16 bits of an f32 one. The second is not
 * rounded, so that one of NaN's is NaN; and so is one of infinity's. */
#ifndef PACKED_TYPE
#define PACKED_TYPE f32
#endif
#ifndef PIECES
#define PIECES 1
#endif
#ifndef AVX512_BF16 /* whether instructions may be AVX512-BF16's */
#define AVX512_BF16 0
#endif

#if PIECES == 2
#define DEFINE_PIECES(n)                                                                                               \
    inline float##n first_piece##n(float##n values)                                                                    \
    {                                                                                                                  \
        return as_float##n((as_uint##n(values) + 0x8000u) & 0xffff0000u);                                              \
    }                                                                                                                  \
    inline void store_pieces##n(__global ushort *to, ulong apart, float##n values)                                     \
    {                                                                                                                  \
        const float##n first = first_piece##n(values);                                                                 \
        store_ushort##n(convert_ushort##n(as_uint##n(first) >> 16), to);                                               \
        store_ushort##n(convert_ushort##n(as_uint##n(values - first) >> 16), to + apart);                              \
    }
DEFINE_PIECES(8)
DEFINE_PIECES(16)
#endif

/* The forms of C; enum moecl_form of runtime/experts/variant.h has the same. */
#define FORM_ROWS 0u             /* of one matrix, as it is         -> [rows, N] */
#define FORM_ACTIVATED_ROWS 1u   /* h of the expert's function      -> [rows, N] */
#define FORM_ACTIVATED_PACKED 2u /* h of the expert's function      -> packed */
#define FORM_LINEAR 3u           /* of two matrices, gate, then up  -> [rows, 2N] */

#define STORE_COLUMNS PASTE_WIDTH(store, FUNCTION_WIDTH)
#define STORE_PIECES PASTE_WIDTH(store_pieces, FUNCTION_WIDTH)
#define VSTORE PASTE_WIDTH(vstore, FUNCTION_WIDTH)
#define VLOAD PASTE_WIDTH(vload, FUNCTION_WIDTH)
#define FOR_EACH_COLUMN(c) _Pragma("unroll") for (uint c = 0; c < FUNCTION_WIDTH; c++)

/* Where rows are more than a core's own cache holds, writing them past it saves reading what is overwritten. Only of
 * whole cache lines, both vectors' together. */
#if defined(__x86_64__)
#define STREAM_BYTES (2ul << 20)
#define stream(to, values) __builtin_nontemporal_store(values, (__global FLOATS *)(to))
#define end_streams() __asm__ volatile("sfence" : : : "memory")
#else
#define STREAM_BYTES ULONG_MAX
#define stream(to, values) ((void)(to))
#define end_streams()
#endif

inline bool streams(uint form, ulong rows, uint width, __global const float *output)
{
    return form == FORM_ROWS && rows * width >= STREAM_BYTES / sizeof(float) && width % (2 * FUNCTION_WIDTH) == 0 &&
           (ulong)output % (2 * FUNCTION_WIDTH * sizeof(float)) == 0;
}

/* Stores up to `count` values of a row. */
inline void store_row(__global float *to, uint count, FLOATS values)
{
    if (count >= FUNCTION_WIDTH) {
        CALL(STORE_COLUMNS, f32)(to, values);
        return;
    }
    float value[FUNCTION_WIDTH];
    VSTORE(values, 0, value);
    FOR_EACH_COLUMN(c) if (c < count) to[c] = value[c];
}

/* Where in the next product's A columns lie: the first at element `at`, the others `stride` apart; their second pieces,
 * where there are two, `apart` behind the first. */
struct place {
    ulong at, stride, apart;
};

inline struct place place_of(ulong at, ulong stride, ulong apart)
{
    const struct place place = {at, stride, apart};
    return place;
}

/* Stores values of the next product's A, of one piece. AVX512-BF16 has an instruction for what are ten otherwise; it
 * takes subnormal numbers for zero, as products by it and by AMX do. */
#if AVX512_BF16 && FUNCTION_WIDTH == 16
inline void store_values(__global ELEMENT(PACKED_TYPE) *to, float16 values)
{
    typedef ushort wide __attribute__((ext_vector_type(16)));
    wide rounded;
    __asm__("vcvtneps2bf16 %1, %t0" : "=v"(rounded) : "v"(values));
    store_ushort16(rounded, to);
}
#else
#define store_values(to, values) CALL(STORE_COLUMNS, PACKED_TYPE)(to, values)
#endif

#if PAIRS_AMX
/* Stores up to `count` values of the next product's A, and zeros behind them, which AMX may read. */
inline __attribute__((always_inline)) void store_packed(__global float *packed, struct place place, uint count,
                                                        FLOATS values)
{
    __global ushort *to = (__global ushort *)packed + place.at;
    if (count < FUNCTION_WIDTH) {
        float value[FUNCTION_WIDTH];
        VSTORE(values, 0, value);
        FOR_EACH_COLUMN(c) value[c] = c < count ? value[c] : 0.0f;
        values = VLOAD(0, value);
    }
#if PIECES == 2
    STORE_PIECES(to, place.apart, values);
#else
    store_values(to, values);
#endif
}
#else
/* Stores up to `count` values of the next product's A. */
inline __attribute__((always_inline)) void store_packed(__global float *packed, struct place place, uint count,
                                                        FLOATS values)
{
    __global ELEMENT(PACKED_TYPE) *to = (__global ELEMENT(PACKED_TYPE) *)packed + place.at;
    if (place.stride == 1 && count >= FUNCTION_WIDTH) {
        store_values(to, values);
        return;
    }
    float value[FUNCTION_WIDTH];
    VSTORE(values, 0, value);
    FOR_EACH_COLUMN(c) if (c < count) CALL(store, PACKED_TYPE)(to + c * place.stride, value[c]);
}
#endif

/* Two vectors of columns. */
struct columns {
    FLOATS low, high;
};

/* Where the columns of the second vector begin, counted in columns of C, if those of the first begin at `first`. */
inline uint second_columns(bool gated, uint first)
{
    return gated ? first : first + FUNCTION_WIDTH;
}

/* Up to `count` values from `from`, zeros behind them. */
inline FLOATS load_some(__global const float *from, uint count)
{
    float value[FUNCTION_WIDTH];
    FOR_EACH_COLUMN(c) value[c] = c < count ? from[c] : 0.0f;
    return VLOAD(0, value);
}

/* The biases of the columns from `first` on; `biases` are the expert's. */
inline struct columns load_biases(__global const float *biases, bool gated, uint width, uint first)
{
    const uint second = second_columns(gated, first);
    struct columns bias;
    bias.low = load_some(biases + first, width - min(first, width));
    bias.high = load_some(biases + (gated ? width : 0) + second, width - min(second, width));
    return bias;
}

/* Stores the columns of row `row` from `first` on in the form asked for; `width` is N. `streamed`: streams(). Always
 * inline: a call moves the vectors through memory twice. */
inline __attribute__((always_inline)) void store_columns(__global float *output, uint form, uint width, uint first,
                                                         ulong row, struct place packed, bool streamed,
                                                         struct columns columns)
{
    FLOATS low = columns.low, high = columns.high;
    const uint second = second_columns(form != FORM_ROWS && !UNGATED, first);
    const uint count = width - min(first, width), second_count = width - min(second, width);
#if UNGATED
    if (form != FORM_ROWS) {
        low = expert_activation(low);
        high = expert_activation(high);
    }
    if (form == FORM_ACTIVATED_PACKED) {
        store_packed(output, packed, count, low);
        packed.at += FUNCTION_WIDTH * packed.stride;
        store_packed(output, packed, second_count, high);
        return;
    }
#else
    if (form == FORM_ACTIVATED_PACKED) {
        store_packed(output, packed, count, expert_function(low, high));
        return;
    }
    if (form == FORM_ACTIVATED_ROWS) {
        store_row(output + row * width + first, count, expert_function(low, high));
        return;
    }
    if (form == FORM_LINEAR) {
        store_row(output + row * 2 * width + first, count, low);
        store_row(output + row * 2 * width + width + first, count, high);
        return;
    }
#endif
    if (streamed) {
        stream(output + row * width + first, low);
        stream(output + row * width + second, high);
        return;
    }
    store_row(output + row * width + first, count, low);
    store_row(output + row * width + second, second_count, high);
}
