# SPDX-License-Identifier: Apache-2.0
"""The compare command: its options, the loop over cells, what is printed."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import sys

import contest
import figures
import plot
import shapes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PEERS = ("torch-eager", "torch-batched", "torch-grouped", "onnxruntime", "ggml")


def listed(parse, allowed=None):
    def read(text):
        items = [parse(item) for item in text.split(",")]
        for item in items:
            if allowed and item not in allowed:
                raise argparse.ArgumentTypeError(f"{item}: must be of {', '.join(allowed)}")
        return items

    return read


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def shape_list(text):
    try:
        return shapes.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_options(arguments):
    parser = argparse.ArgumentParser(
        prog="compare", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Times the expert block (gather, gate and up with SwiGLU, down, combine; routing given) of moecl,\n"
        "PyTorch, ONNX Runtime and ggml on this machine's CPU: the same weights, routings, types and cores, in turns.\n"
        "Times are medians in milliseconds; the ratio is the best peer's over moecl's (above 1: moecl is faster).\n"
        "moecl comes from build/ of this tree: build it first.",
        epilog="Exit status: 0 success, 1 a contender computed something else, 2 wrong use, 3 no moecl or no device.")
    parser.add_argument("--shapes", type=shape_list, default="olmoe-1b-7b", metavar="LIST",
                        help="names as 'moecl bench --help' lists them, or E,H,I,k; blanks or semicolons between "
                        "(default: olmoe-1b-7b)")
    parser.add_argument("--tokens", type=listed(positive), default="1,8,64,512", metavar="LIST",
                        help="numbers of tokens (default: 1,8,64,512)")
    parser.add_argument("--dtypes", type=listed(str, shapes.TYPES), default="f32,f16,bf16", metavar="LIST",
                        help="types of weights and activations (default: f32,f16,bf16)")
    parser.add_argument("--routing", type=listed(str, shapes.ROUTINGS), default="uniform", metavar="LIST",
                        help="uniform; zipf: the r-th expert with a share of 1/r; single: all tokens choose the same "
                        "experts (default: uniform)")
    parser.add_argument("--repetitions", type=positive, default=9, metavar="N", help="turns of each (default: 9)")
    parser.add_argument("--peers", type=listed(str, PEERS), default=",".join(PEERS), metavar="LIST",
                        help=f"default: {','.join(PEERS)}")
    parser.add_argument("--threads", type=positive, metavar="N", help="cores of each (default: all)")
    parser.add_argument("--variant", default="", help="moecl's expert-GEMM variant (default: its own choice)")
    parser.add_argument("--device", default="",
                        help="moecl's OpenCL device (default: $MOECL_DEVICE, else the first CPU)")
    parser.add_argument("--seed", type=int, default=1, metavar="S",
                        help="of weights, activations, routings (default: 1)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="everything measured")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.svg", help="the table as a picture")
    parser.add_argument("--venv", metavar="DIR", help="where the peers are installed "
                        "(default: $XDG_CACHE_HOME/moecl-compare, else ~/.cache/moecl-compare)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", metavar="DIR",
                        help="where moecl was built (default: build)")
    return parser.parse_args(arguments)


def keep_to(threads):
    """Every thread pool of this process gets the same cores. Before any library looks how many there are."""
    cores = sorted(os.sched_getaffinity(0))
    threads = min(threads or len(cores), len(cores))
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = os.environ["POCL_CPU_MAX_CU_COUNT"] = str(threads)
    os.environ["POCL_MAX_PTHREAD_COUNT"] = str(threads)  # its name in older ones
    return threads


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def warn_if_busy(threads):
    load = os.getloadavg()[0]
    if load > 0.25 * threads:
        print(f"compare: the machine is busy (load {load:.1f}): expect odd times, of the peers above all",
              file=sys.stderr)
    return load


def processor():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Wrong(Exception):
    """A contender's y is not what the block computes."""


class Comparison:
    """A run of the command."""

    def __init__(self, options):
        import block
        import contenders
        import ggml
        import torch

        self.options, self.block, self.contenders, self.ggml = options, block, contenders, ggml
        torch.set_num_threads(options.threads)
        self.names = [figures.OURS, *options.peers]
        self.client = contenders.Client(str(options.build / "moecl_compare.so"), options.device)
        self.cells, self.wrong = [], []

    def about(self):
        return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
                "processor": processor(), "threads": self.options.threads, "device": self.client.text("title"),
                "load": self.options.load, "repetitions": self.options.repetitions, "seed": self.options.seed,
                "versions": {**self.contenders.versions(), **self.ggml.versions()}}

    def copies(self, dtype):
        """Of the weights: PyTorch's implementations share theirs."""
        sharing = any(name in self.contenders.IMPLEMENTATIONS for name in self.options.peers)
        own = ("onnxruntime" in self.options.peers and dtype != "bf16") + ("ggml" in self.options.peers)
        return 1 + sharing + own

    def make(self, shape, dtype):
        """Contenders by name, or why there is none; with their weights."""
        made, absent, shared = {}, {}, None
        for name in self.names:
            try:
                if name == figures.OURS:
                    made[name] = self.contenders.Moecl(self.client, shape, dtype, self.options.variant)
                elif name == "onnxruntime":
                    made[name] = self.contenders.OnnxRuntime(shape, dtype, self.options.threads)
                elif name == "ggml":
                    made[name] = self.ggml.Ggml(shape, dtype, self.options.threads)
                else:
                    shared = shared or self.contenders.Torch(shape, dtype)
                    implementation = self.contenders.IMPLEMENTATIONS[name]
                    made[name] = self.contenders.TorchImplementation(shared, implementation)
            except self.contenders.Absent as error:
                absent[name] = str(error)
        weights = self.block.Weights(shape, dtype, self.options.seed)
        holders = [*made.values(), *([shared] if shared else [])]
        for expert in range(shape.experts):
            progress(f"{shape.name} {dtype}: weights of expert {expert + 1} of {shape.experts}")
            matrices = weights.expert(expert)
            for holder in holders:
                holder.give(expert, *matrices)
        return made, absent, weights, holders

    def check(self, cell, contender, feed, expected):
        """Nothing is timed that computes something else."""
        contender.begin(feed)
        contender.call(0)
        tokens, rows = expected
        error = self.block.distance(contender.output()[tokens], rows)
        if error > self.block.TOLERANCE[cell["dtype"]]:
            raise Wrong(f"computes something else: relative error {error:.1e}")
        return error, contender.output().clone()

    def compete(self, cell, made, absent, weights, feed):
        expected = self.block.expected(feed, weights, 0)
        results = cell["results"] = {name: {"reason": reason} for name, reason in absent.items()}
        samplers, first = [], None
        for name, contender in made.items():
            try:
                error, y = self.check(cell, contender, feed, expected)
                first = y if first is None else first
                apart = self.block.distance(y, first)
                if apart > 2 * self.block.TOLERANCE[cell["dtype"]]:
                    raise Wrong(f"computes something else: {apart:.1e} apart from the first")
                results[name] = {"error": error}
                samplers.append(contest.Sampler(name, contender.call))
            except Exception as problem:  # the peers have classes of their own for what they cannot do
                results[name] = {"reason": self.contenders.short(problem)}
                if isinstance(problem, Wrong):
                    self.wrong.append(name)
        if samplers:
            readings = []
            contest.run(samplers, self.options.repetitions, before_turn=lambda: readings.append(self.client.limits()))
            cell |= figures.limits(readings, *feed.limits(), cell["dtype"])
        for sampler in samplers:
            results[sampler.name] |= figures.summarise(sampler.samples)

    def measure(self, shape, dtype, routing, tokens, parts):
        made, absent, weights, _ = parts
        progress(f"{shape.name} {dtype} {routing}: {tokens} tokens")
        feed = self.block.Feed(shape, dtype, tokens, routing, self.options.seed)
        cell = {"shape": shape.name, "experts": shape.experts, "hidden": shape.hidden,
                "intermediate": shape.intermediate, "top_k": shape.top_k, "dtype": dtype, "routing": routing,
                "tokens": tokens, "experts_touched": feed.touched, "variant": self.client.text("variant")}
        self.compete(cell, made, absent, weights, feed)
        self.cells.append(figures.judge(cell))

    def run(self):
        """True where the user had enough; what was measured until then is not lost."""
        try:
            self.measure_all()
        except KeyboardInterrupt:
            progress("")
            print("compare: interrupted: the cells until now", file=sys.stderr)
            return True
        return False

    def measure_all(self):
        for shape in self.options.shapes:
            for dtype in self.options.dtypes:
                needed = self.copies(dtype) * shape.weight_bytes(dtype)
                if needed > self.contenders.available_memory():
                    print(f"compare: {shape.name} {dtype} needs {needed / 2**30:.1f} GiB for all contenders' weights: "
                          "left out", file=sys.stderr)
                    continue
                parts = self.make(shape, dtype)
                for routing in self.options.routing:
                    for tokens in self.options.tokens:
                        self.measure(shape, dtype, routing, tokens, parts)
                for holder in parts[3]:
                    holder.close()
        progress("")

    def report(self):
        about = self.about()
        print(f"{about['processor']}, {about['threads']} threads, {about['date']}; moecl on {about['device']}")
        print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
        print(f"milliseconds, medians; ratio: best peer / moecl\n\n{figures.table(self.cells, self.names)}\n")
        for line in figures.absences(self.cells):
            print(f"- {line}")
        print(figures.verdict(self.cells))
        if self.options.json:
            content = {**about, "cells": self.cells, "overall": figures.overall(self.cells)}
            self.options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if self.options.plot:
            title = f"Expert block on {about['processor']}, {about['threads']} threads"
            self.options.plot.write_text(plot.svg(self.cells, self.names, title), encoding="utf-8")


def main(arguments):
    options = parse_options(arguments)
    if not (options.build / "moecl_compare.so").exists():
        print(f"compare: {options.build}/moecl_compare.so is not there: build moecl first", file=sys.stderr)
        return 3
    options.threads = keep_to(options.threads)
    options.load = warn_if_busy(options.threads)
    from contenders import Absent

    try:
        comparison = Comparison(options)
        interrupted = comparison.run()
    except Absent as error:
        print(f"compare: {error}", file=sys.stderr)
        return 3
    comparison.report()
    comparison.client.close()
    return 130 if interrupted else 1 if comparison.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
