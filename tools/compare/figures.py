# SPDX-License-Identifier: Apache-2.0
"""What the times amount to: medians, ratios, the table."""
import math
import statistics

OURS = "moecl"


def quantile(values, share):
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1) + 0.5)]


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summarise(samples):
    """Milliseconds of a contender in a cell."""
    return {
        "milliseconds": 1e3 * statistics.median(samples),
        "milliseconds_p10": 1e3 * quantile(samples, 0.1),
        "milliseconds_p90": 1e3 * quantile(samples, 0.9),
        "samples": len(samples),
    }


def limits(readings, bytes_read, operations, dtype):
    """What a cell's calls cannot be faster than, out of readings of the device in turn with them: (bytes read a second,
    operations a second in fp32, in bf16)."""
    read, fp32, bf16 = (statistics.median(values) for values in zip(*readings))
    peak = bf16 if dtype == "bf16" else fp32
    return {
        "device_read_gbytes_per_second": 1e-9 * read,
        "device_fp32_gflops": 1e-9 * fp32,
        "device_bf16_gflops": 1e-9 * bf16,
        "limit_milliseconds": 1e3 * max(bytes_read / read, operations / peak),
    }


def judge(cell):
    """Adds the best peer and how many times longer it takes than moecl; None where there is nothing to compare."""
    times = {name: result["milliseconds"] for name, result in cell["results"].items() if "milliseconds" in result}
    peers = {name: value for name, value in times.items() if name != OURS}
    best = min(peers, key=peers.get) if peers else None
    cell["best_peer"] = best
    cell["ratio"] = peers[best] / times[OURS] if best and OURS in times else None
    limit = cell.get("limit_milliseconds")
    cell["fraction_of_limit"] = limit / times[OURS] if limit and OURS in times else None
    return cell


def overall(cells):
    ratios = [cell["ratio"] for cell in cells if cell["ratio"]]
    if not ratios:
        return None
    return {
        "cells": len(ratios),
        "faster": sum(ratio > 1 for ratio in ratios),
        "geometric_mean": geometric_mean(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
    }


def milliseconds(value):
    """Three figures, and no more zeros than that."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def rows(cells, names):
    yield ["shape", "type", "routing", "T", *names, "best peer", "ratio", "of limit"]
    for cell in cells:
        results = [cell["results"].get(name, {}) for name in names]
        yield [
            cell["shape"],
            cell["dtype"],
            cell["routing"],
            str(cell["tokens"]),
            *(milliseconds(result["milliseconds"]) if "milliseconds" in result else "-" for result in results),
            cell["best_peer"] or "-",
            f"{cell['ratio']:.2f}" if cell["ratio"] else "-",
            f"{100 * cell['fraction_of_limit']:.0f} %" if cell["fraction_of_limit"] else "-",
        ]


def table(cells, names):
    """Text in columns; numbers stand to the right."""
    lines = list(rows(cells, names))
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = (0, 1, 2, len(names) + 4)
    return "\n".join(
        "  ".join(text.ljust(width) if i in left else text.rjust(width)
                  for i, (text, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


def absences(cells):
    """Who did not take part where, and why; one line for all cells of the same reason."""
    where = {}
    for cell in cells:
        for name, result in cell["results"].items():
            if "reason" in result:
                place = f"{cell['shape']} {cell['dtype']} T={cell['tokens']}"
                where.setdefault((name, result["reason"]), []).append(place)
    return [f"{name}: {reason} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
            for (name, reason), places in where.items()]


def verdict(cells):
    total = overall(cells)
    if not total:
        return "nothing to compare"
    return (f"moecl is faster than the best peer in {total['faster']} of {total['cells']} cells; geometric mean of the "
            f"ratios {total['geometric_mean']:.2f}, smallest {total['smallest']:.2f}, largest {total['largest']:.2f}")
