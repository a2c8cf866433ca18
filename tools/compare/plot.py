# SPDX-License-Identifier: Apache-2.0
"""The table as a picture: a row a cell, a dot a contender, time relative to moecl's on a logarithmic axis."""
import math
from xml.sax.saxutils import escape

from figures import OURS

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too
LABEL, WIDTH, ROW, TOP, BOTTOM = 330, 560, 22, 74, 46


def ticks(low, high):
    """1, 2, 5, 10, ... and their inverses within the range."""
    for decade in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**decade
            if low * 0.999 <= value <= high * 1.001:
                yield value


def relative(cell):
    """A contender's time over moecl's."""
    results = cell["results"]
    ours = results.get(OURS, {}).get("milliseconds")
    if not ours:
        return {}
    return {name: result["milliseconds"] / ours for name, result in results.items()
            if name != OURS and "milliseconds" in result}


def svg(cells, names, title):
    peers = [name for name in names if name != OURS]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    points = [relative(cell) for cell in cells]
    values = [value for row in points for value in row.values()]
    low = min([0.5, *values]) / 1.1
    high = max([2.0, *values]) * 1.1

    def x(value):
        return LABEL + WIDTH * math.log(value / low) / math.log(high / low)

    bottom = TOP + ROW * len(cells)
    total = LABEL + WIDTH + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{bottom + BOTTOM}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{total}" height="{bottom + BOTTOM}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
    ]
    step = (total - 24) / max(1, len(peers))
    for i, name in enumerate(peers):
        parts.append(f'<circle cx="{18 + i * step:.1f}" cy="44" r="5" fill="{colour[name]}"/>'
                     f'<text x="{28 + i * step:.1f}" y="48">{escape(name)}</text>')
    for value in ticks(low, high):
        stroke = "#000" if value == 1 else "#ddd"
        parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP - 6}" y2="{bottom}" stroke="{stroke}"/>'
                     f'<text x="{x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    for i, (cell, row) in enumerate(zip(cells, points)):
        y = TOP + ROW * i + ROW / 2
        name = f'{cell["shape"]}  {cell["dtype"]}  {cell["routing"]}  T={cell["tokens"]}'
        parts.append(f'<text x="{LABEL - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for peer, value in row.items():
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="5" fill="{colour[peer]}" fill-opacity="0.8">'
                         f'<title>{escape(peer)}: {value:.2f}</title></circle>')
    parts.append(f'<text x="{LABEL + WIDTH / 2:.1f}" y="{bottom + 36}" text-anchor="middle">'
                 "time divided by moecl's: right of 1, moecl is faster</text>")
    return "\n".join([*parts, "</svg>", ""])
