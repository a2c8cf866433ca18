# SPDX-License-Identifier: Apache-2.0
"""ggml, the library below llama.cpp, as a contender (contenders.py says what one is): the graph that llama.cpp builds
for an expert block, computed by ggml's CPU back end. x and y are f32, as they always are there."""
import ctypes
import os
import sys

import torch
from contenders import Absent, pointer

TYPES = {"f32": 0, "f16": 1, "bf16": 30}  # enum ggml_type
I32 = 26
CONTEXT_ROOM = 4 << 20  # for a context's own records beside its tensors' numbers


class InitParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]


class Plan(ctypes.Structure):
    _fields_ = [("work_size", ctypes.c_size_t), ("work_data", ctypes.c_void_p), ("threads", ctypes.c_int),
                ("threadpool", ctypes.c_void_p), ("abort_callback", ctypes.c_void_p),
                ("abort_callback_data", ctypes.c_void_p), ("use_reference", ctypes.c_bool)]


POINTERS = ("init", "new_tensor_2d", "new_tensor_3d", "get_data", "mul_mat_id", "swiglu_split", "mul", "add", "view_2d",
            "new_graph", "threadpool_new")
RESULTS = {**dict.fromkeys(POINTERS, ctypes.c_void_p), "version": ctypes.c_char_p, "graph_plan": Plan}


class Library:
    """library.NAME is ggml_NAME. Pointers are plain numbers; other arguments are ctypes'."""

    def __init__(self, directory):
        try:
            self.files = [ctypes.CDLL(os.path.join(directory, f"libggml-{part}.so"), mode=ctypes.RTLD_GLOBAL)
                          for part in ("base", "cpu")]
        except OSError as error:
            raise Absent("was not built") from error

    def __getattr__(self, name):
        found = [getattr(file, f"ggml_{name}") for file in self.files if hasattr(file, f"ggml_{name}")]
        if not found:
            raise Absent(f"has no ggml_{name}")
        function = found[0]
        function.restype = RESULTS.get(name, ctypes.c_int)

        def call(*arguments):
            return function(*(ctypes.c_void_p(argument) if isinstance(argument, int) else argument
                              for argument in arguments))

        setattr(self, name, call)
        return call


def load():
    """The libraries that install-ggml put into the virtual environment."""
    return Library(os.path.join(sys.prefix, "ggml"))


def versions():
    try:
        return {"ggml": load().version().decode()}
    except Absent:
        return {}


class Context:
    """Tensors and their numbers, in one piece of memory."""

    def __init__(self, library, size):
        self.library = library
        self.handle = library.init(InitParams(size + CONTEXT_ROOM, None, False))
        if not self.handle:
            raise Absent("out of memory")

    def tensor(self, kind, *sizes):
        make = self.library.new_tensor_2d if len(sizes) == 2 else self.library.new_tensor_3d
        return make(self.handle, ctypes.c_int(kind), *map(ctypes.c_int64, sizes))

    def data(self, tensor):
        return self.library.get_data(tensor)

    def close(self):
        self.library.free(self.handle)
        self.handle = None


class Ggml:
    def __init__(self, shape, dtype, threads):
        self.library = library = load()
        self.shape, self.threads = shape, threads
        library.cpu_init()
        parameters = ctypes.create_string_buffer(4096)
        library.threadpool_params_init(parameters, ctypes.c_int(threads))
        self.pool = library.threadpool_new(parameters)
        self.weights, self.block = Context(library, shape.weight_bytes(dtype)), None
        sizes = {"gate": (shape.hidden, shape.intermediate), "up": (shape.hidden, shape.intermediate),
                 "down": (shape.intermediate, shape.hidden)}
        self.matrices = {name: self.weights.tensor(TYPES[dtype], *size, shape.experts) for name, size in sizes.items()}

    def give(self, number, gate_up, down):
        for name, matrix in zip(("gate", "up", "down"), (*gate_up.chunk(2), down)):
            size = matrix.numel() * matrix.element_size()
            ctypes.memmove(self.weights.data(self.matrices[name]) + number * size, pointer(matrix), size)

    def begin(self, feed):
        shape, tokens, ggml = self.shape, feed.tokens, self.library
        if self.block:
            self.block.close()
        rows = tokens * shape.top_k
        self.block = block = Context(ggml, 16 * rows * (shape.hidden + shape.intermediate))
        x = block.tensor(TYPES["f32"], shape.hidden, 1, tokens)
        ids, weights = block.tensor(I32, shape.top_k, tokens), block.tensor(TYPES["f32"], 1, shape.top_k, tokens)

        def product(name, rows):
            return ggml.mul_mat_id(block.handle, self.matrices[name], rows, ids)

        activated = ggml.swiglu_split(block.handle, product("gate", x), product("up", x))
        weighted = ggml.mul(block.handle, product("down", activated), weights)
        y = None
        for choice in range(shape.top_k):  # one row a token of each
            part = ggml.view_2d(block.handle, weighted, ctypes.c_int64(shape.hidden), ctypes.c_int64(tokens),
                                ctypes.c_size_t(4 * shape.top_k * shape.hidden),
                                ctypes.c_size_t(4 * choice * shape.hidden))
            y = ggml.add(block.handle, y, part) if y else part
        self.graph = ggml.new_graph(block.handle)
        ggml.build_forward_expand(self.graph, y)
        self.plan = ggml.graph_plan(self.graph, ctypes.c_int(self.threads), self.pool)
        self.work = ctypes.create_string_buffer(self.plan.work_size + 1)
        self.plan.work_data = ctypes.addressof(self.work)
        content = feed.x.float().contiguous()
        ctypes.memmove(block.data(x), pointer(content), 4 * content.numel())
        self.inputs = [(block.data(ids), feed.ids.to(torch.int32).contiguous()), (block.data(weights), feed.weights)]
        self.count, self.choices, self.dtype = feed.count, rows, feed.x.dtype
        self.y = (block.data(y), tokens, shape.hidden)

    def call(self, n):
        for to, content in self.inputs:  # 4 bytes a choice
            ctypes.memmove(to, content.data_ptr() + 4 * self.choices * (n % self.count), 4 * self.choices)
        if self.library.graph_compute(self.graph, ctypes.byref(self.plan)):
            raise RuntimeError("ggml_graph_compute failed")

    def output(self):
        data, tokens, hidden = self.y
        y = torch.empty(tokens, hidden)
        ctypes.memmove(pointer(y), data, 4 * y.numel())
        return y.to(self.dtype)

    def close(self):
        for context in (self.block, self.weights):
            if context:
                context.close()
        self.library.threadpool_free(self.pool)
