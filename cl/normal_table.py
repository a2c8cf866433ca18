#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the table of philox.cl's normal numbers: cl/normal_table.py > cl/normal_table.cl. Nothing but Python is needed.

Of tail probabilities p = (1 - y/2) / 2^(octave + 1), 0 < y <= 1, the inverse Q(p) of the normal distribution's tail is
approximated by a polynomial with powers 0, 1, 2, 3, 4 and 7 of y. It meets Q at the Chebyshev-like points below, the
ends among them, so that one octave goes on where the last one ends. Among few powers these approximate Q best without a
negative coefficient; integer arithmetic then never falls while y rises. This program checks that for the bounds of
octaves too, and that no number is off by more than ERROR.
"""
import random
import sys
from decimal import Decimal, getcontext
from statistics import NormalDist

OCTAVES = 32
POWERS = (0, 1, 2, 3, 4, 7)
POINTS = [Decimal(y) for y in ("0", "0.133975", "0.366025", "0.633975", "0.866025", "1")]
BITS = 29  # the coefficient of y^k counts 2^-(BITS + k)
UNIT = 21  # a number counts 2^-UNIT
ERROR = 2.0**-19

getcontext().prec = 50
TWO_PI = Decimal("6.283185307179586476925286766559005768394338798750")


def density(x):
    return (-x * x / 2).exp() / TWO_PI.sqrt()


def tail(x):
    """The probability of more than x: 1/2 - density(x) (x + x^3 / 3 + x^5 / (3 * 5) + ...)"""
    total = term = x
    divisor = 1
    while term > Decimal("1e-45"):
        divisor += 2
        term *= x * x / divisor
        total += term
    return Decimal("0.5") - density(x) * total


def inverse(p):
    """Q(p), by Newton's method"""
    x = Decimal(-NormalDist().inv_cdf(float(p)))
    for _ in range(3):
        x += (tail(x) - p) / density(x)
    return x


def probability(octave, y):
    return (1 - y / 2) / 2 ** (octave + 1)


def solve(rows):
    """The solution of linear equations, each a row of coefficients and the right side, by Gauss and Jordan"""
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r, row in enumerate(rows):
            if r != i:
                rows[r] = [value - row[i] * own for value, own in zip(row, rows[i])]
    return [row[-1] for row in rows]


def coefficients(octave):
    rows = [[y**k if k else Decimal(1) for k in POWERS] + [inverse(probability(octave, y))] for y in POINTS]
    return [round(value * 2 ** (BITS + k)) for k, value in zip(POWERS, solve(rows))]


def magnitude(table, odd):
    """Of p = odd / 2^33, as philox.cl has it"""
    octave = 32 - odd.bit_length()
    row = table[octave]
    y = (1 << 32) - (odd << octave)
    q = (row[5] * y >> 32) * y >> 32
    for k in (4, 3, 2, 1, 0):
        q = row[k] + (q * y >> 32)
    assert q < 1 << 32
    return (q + (1 << BITS - UNIT - 1)) >> BITS - UNIT


def check(table):
    random.seed(1)
    assert all(0 <= value < 1 << 32 for row in table for value in row)
    for octave in range(OCTAVES):
        low = (1 << 31 - octave) + 1 if octave < 31 else 1
        high = (1 << 32 - octave) - 1
        if octave > 0:
            assert magnitude(table, high) >= magnitude(table, high + 2)
        for odd in [low, high] + [random.randint(low, high) | 1 for _ in range(40)]:
            off = magnitude(table, odd) / Decimal(2**UNIT) - inverse(Decimal(odd) / 2**33)
            assert abs(off) < ERROR, (odd, off)


def main():
    table = [coefficients(octave) for octave in range(OCTAVES)]
    check(table)
    sys.stdout.write("""/* SPDX-License-Identifier: Apache-2.0 */
/* normal_table.cl - coefficients of philox.cl's normal numbers, for OpenCL C and C. Made by normal_table.py, which says
 * what they are: a row for each octave of the tail probability; the column of y^k counts 2^-(29 + k). */
#ifdef __OPENCL_VERSION__
__constant uint
#else
static const uint32_t
#endif
    normal_table[32][6] = {
        /* 1          y            y^2          y^3          y^4          y^7 */
""")
    for row in table:
        sys.stdout.write("        {" + ", ".join(f"0x{value:08x}u" for value in row) + "},\n")
    sys.stdout.write("};\n")


if __name__ == "__main__":
    main()
