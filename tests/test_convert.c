/* SPDX-License-Identifier: Apache-2.0 */
/* test_convert.c - conversion between storage types, against arithmetic in double precision. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "random.h"

/* The formats, as IEEE 754 describes them: digits of the significand, exponents of normal numbers. */
static const struct format {
    moecl_type type;
    int digits, lowest, highest;
} formats[] = {{MOECL_F16, 11, -14, 15}, {MOECL_BF16, 8, -126, 127}};

/* The value of a 16-bit pattern. */
static double decode(const struct format *format, uint16_t bits)
{
    int fraction_bits = format->digits - 1;
    int fraction = bits & ((1 << fraction_bits) - 1);
    int exponent = (bits & 0x7fff) >> fraction_bits;
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == format->highest - format->lowest + 2)
        return fraction == 0 ? sign * (double)INFINITY : (double)NAN;
    if (exponent == 0)
        return sign * ldexp(fraction, format->lowest - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - 1 + format->lowest - fraction_bits);
}

/* The value of the format that is nearest to `value`, ties to the even one. */
static double nearest(const struct format *format, double value)
{
    if (value == 0 || isnan(value) || isinf(value))
        return value;
    int exponent = ilogb(value) < format->lowest ? format->lowest : ilogb(value);
    double unit = ldexp(1, exponent - format->digits + 1);
    double rounded = rint(value / unit) * unit;
    return fabs(rounded) >= ldexp(1, format->highest + 1) ? copysign((double)INFINITY, value) : rounded;
}

static bool same(double a, double b)
{
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static uint16_t encode(const struct format *format, float value)
{
    uint16_t bits;
    moecl_convert(&value, MOECL_F32, &bits, format->type, 1);
    return bits;
}

static void assert_nearest(const struct format *format, float value)
{
    double got = decode(format, encode(format, value)), expected = nearest(format, (double)value);
    if (!same(got, expected))
        fail_msg("%a as %s: %a instead of %a", (double)value, moecl_type_name(format->type), got, expected);
}

static void every_pattern_to_f32_and_back(void **state)
{
    (void)state;
    static uint16_t patterns[65536], back[65536];
    static float values[65536];
    for (size_t i = 0; i < 65536; i++)
        patterns[i] = (uint16_t)i;
    for (size_t f = 0; f < 2; f++) {
        moecl_convert(patterns, formats[f].type, values, MOECL_F32, 65536);
        moecl_convert(values, MOECL_F32, back, formats[f].type, 65536);
        for (size_t i = 0; i < 65536; i++) {
            double expected = decode(&formats[f], patterns[i]);
            if (!same((double)values[i], expected))
                fail_msg("%s %04zx: %a instead of %a", moecl_type_name(formats[f].type), i, (double)values[i],
                         expected);
            if (isnan(expected))
                assert_true(isnan(decode(&formats[f], back[i])));
            else
                assert_int_equal(back[i], patterns[i]);
        }
    }
}

/* Between any two neighbours: the middle, and the floats next to it. */
static void ties_go_to_even(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        for (int bits = 0; bits < 0x7fff; bits++) {
            double low = decode(&formats[f], (uint16_t)bits), high = decode(&formats[f], (uint16_t)(bits + 1));
            if (isnan(low) || isnan(high) || isinf(low))
                continue;
            if (isinf(high)) /* what would be next with a larger exponent */
                high = ldexp(1, formats[f].highest + 1);
            float middle = (float)((low + high) / 2);
            assert_nearest(&formats[f], middle);
            assert_nearest(&formats[f], -middle);
            assert_nearest(&formats[f], nextafterf(middle, INFINITY));
            assert_nearest(&formats[f], nextafterf(middle, 0));
        }
    }
}

static void random_floats(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (size_t i = 0; i < 2000000; i++) {
        uint32_t bits = (uint32_t)random_between(&seed, 0, UINT32_MAX);
        float value;
        memcpy(&value, &bits, sizeof(value));
        assert_nearest(&formats[i % 2], value);
    }
}

/* A NaN whose payload is all in the bits that are cut off must not become infinity. */
static void nan_stays_nan(void **state)
{
    (void)state;
    static const uint32_t nans[] = {0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff, 0x7fc00000, 0x7f801fff};
    for (size_t i = 0; i < sizeof(nans) / sizeof(nans[0]); i++) {
        float value;
        memcpy(&value, &nans[i], sizeof(value));
        assert_true(isnan(decode(&formats[0], encode(&formats[0], value))));
        assert_true(isnan(decode(&formats[1], encode(&formats[1], value))));
    }
}

static void between_the_short_types(void **state)
{
    (void)state;
    for (int bits = 0; bits < 65536; bits++) {
        for (size_t f = 0; f < 2; f++) {
            const struct format *from = &formats[f], *to = &formats[1 - f];
            uint16_t pattern = (uint16_t)bits, converted;
            moecl_convert(&pattern, from->type, &converted, to->type, 1);
            assert_true(same(decode(to, converted), nearest(to, decode(from, pattern))));
        }
    }
}

/* Every length around the block of the implementation, and addresses that are not aligned. */
static void lengths_and_alignment(void **state)
{
    (void)state;
    enum { LONGEST = 1100 };
    uint64_t seed = 2;
    float values[LONGEST], back[LONGEST];
    unsigned char halves[2 * LONGEST + 3], floats[4 * LONGEST + 5];
    random_fill(&seed, 1, values, LONGEST);
    for (size_t count = 0; count <= LONGEST; count++) {
        memset(halves, 0xee, sizeof(halves));
        memset(floats, 0xee, sizeof(floats));
        moecl_convert(values, MOECL_F32, halves + 1, MOECL_F16, count);
        moecl_convert(halves + 1, MOECL_F16, floats + 1, MOECL_F32, count);
        assert_int_equal(halves[0], 0xee);
        assert_int_equal(halves[1 + 2 * count], 0xee);
        assert_int_equal(floats[0], 0xee);
        assert_int_equal(floats[1 + 4 * count], 0xee);
        memcpy(back, floats + 1, 4 * count);
        for (size_t i = 0; i < count; i++)
            assert_true((double)back[i] == nearest(&formats[0], (double)values[i]));
    }
    moecl_convert(values, MOECL_F32, floats + 1, MOECL_F32, LONGEST);
    assert_memory_equal(floats + 1, values, sizeof(values));
    moecl_convert(NULL, MOECL_F32, NULL, MOECL_F32, 0);
    moecl_convert(NULL, MOECL_F32, NULL, MOECL_BF16, 0);
}

static void types_by_name(void **state)
{
    (void)state;
    static const struct {
        moecl_type type;
        const char *name;
        size_t size;
    } expected[] = {{MOECL_F32, "f32", 4}, {MOECL_F16, "f16", 2}, {MOECL_BF16, "bf16", 2}};
    for (size_t i = 0; i < 3; i++) {
        moecl_type type = (moecl_type)77;
        assert_true(moecl_type_from_name(expected[i].name, &type));
        assert_int_equal(type, expected[i].type);
        assert_string_equal(moecl_type_name(type), expected[i].name);
        assert_int_equal(moecl_type_size(type), expected[i].size);
    }
    moecl_type untouched = MOECL_BF16;
    assert_false(moecl_type_from_name("f64", &untouched));
    assert_false(moecl_type_from_name("", &untouched));
    assert_false(moecl_type_from_name(NULL, &untouched));
    assert_int_equal(untouched, MOECL_BF16);
    assert_int_equal(moecl_type_size((moecl_type)3), 0);
    assert_string_equal(moecl_type_name((moecl_type)3), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_to_f32_and_back),
        cmocka_unit_test(ties_go_to_even),
        cmocka_unit_test(random_floats),
        cmocka_unit_test(nan_stays_nan),
        cmocka_unit_test(between_the_short_types),
        cmocka_unit_test(lengths_and_alignment),
        cmocka_unit_test(types_by_name),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL);
}
