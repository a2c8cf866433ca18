# SPDX-License-Identifier: Apache-2.0
"""Who takes part. A contender is made for one shape and type; then

    give(number, gate_up, down)    takes an expert's weights
    begin(feed)                    gets ready for the calls of a cell
    call(n)                        computes y with the n-th routing of the feed, to the end
    output()                       y of the last call

What it cannot do raises Absent, whose text tells why."""
import ctypes
import types
from importlib import metadata

import torch

from block import DTYPES


class Absent(Exception):
    pass


def short(error):
    """The first line of another program's complaint."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 0


# --------------------------------------------------------------------------------------------------- moecl --


class Client:
    """client.c, loaded: an open device."""

    def __init__(self, library, device):
        self.library = ctypes.CDLL(library)
        self.library.compare_make.restype = ctypes.c_void_p
        for name in ("error", "title", "variant"):
            getattr(self.library, f"compare_{name}").restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p(self.library.compare_make())
        if not self.handle:
            raise Absent("out of memory")
        self.run("open", device.encode())

    def run(self, name, *arguments):
        if getattr(self.library, f"compare_{name}")(self.handle, *arguments):
            raise Absent(self.text("error"))

    def text(self, name):
        return getattr(self.library, f"compare_{name}")(self.handle).decode()

    def limits(self):
        """Bytes read a second, operations a second in fp32 and in bf16."""
        read, fp32, bf16 = ctypes.c_double(), ctypes.c_double(), ctypes.c_double()
        self.run("limits", ctypes.byref(read), ctypes.byref(fp32), ctypes.byref(bf16))
        return read.value, fp32.value, bf16.value

    def drop(self):
        self.library.compare_drop(self.handle)

    def close(self):
        self.library.compare_free(self.handle)


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


class Moecl:
    def __init__(self, client, shape, dtype, variant):
        self.client = client
        self.variant = variant.encode()  # the layer's options point to it
        sizes = (shape.experts, shape.hidden, shape.intermediate, shape.top_k)
        client.run("layer", *map(ctypes.c_size_t, sizes), dtype.encode(), self.variant)

    def give(self, number, gate_up, down):
        self.client.run("expert", ctypes.c_size_t(number), pointer(gate_up), pointer(down))

    def begin(self, feed):
        ids = feed.ids.to(torch.int32).contiguous()
        self.y = torch.empty_like(feed.x)
        self.client.run("feed", ctypes.c_size_t(feed.tokens), pointer(feed.x), ctypes.c_size_t(feed.count),
                        pointer(ids), pointer(feed.weights))

    def call(self, n):
        self.client.run("call", ctypes.c_size_t(n))

    def output(self):
        self.client.run("read", pointer(self.y))
        return self.y

    def close(self):
        self.client.drop()


# ------------------------------------------------------------------------------------------------- PyTorch --


class Torch:
    """OLMoE's expert module of transformers, with one of the implementations that transformers has for all models.
    The implementations share the module and its weights."""

    def __init__(self, shape, dtype):
        from transformers.models.olmoe.modeling_olmoe import OlmoeExperts

        self.shape, self.dtype = shape, DTYPES[dtype]
        config = types.SimpleNamespace(num_local_experts=shape.experts, hidden_size=shape.hidden,
                                       intermediate_size=shape.intermediate, hidden_act="silu",
                                       _experts_implementation="eager")
        previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        self.module = OlmoeExperts(config).requires_grad_(False)
        torch.set_default_dtype(previous)

    def give(self, number, gate_up, down):
        self.module.gate_up_proj[number] = gate_up
        self.module.down_proj[number] = down

    def close(self):
        self.module = None


class TorchImplementation:
    def __init__(self, torch_block, implementation):
        self.block, self.implementation = torch_block, implementation

    def give(self, number, gate_up, down):
        pass

    def begin(self, feed):
        if self.implementation == "batched_mm":  # gathers the weights of every choice before it multiplies
            shape = self.block.shape
            needed = 2 * feed.tokens * shape.top_k * shape.hidden * shape.intermediate * self.block.dtype.itemsize
            if needed > available_memory() / 2:
                raise Absent("copies more weights than there is memory")
        self.x = feed.x
        self.routings = [(ids, weights.to(feed.x.dtype)) for ids, weights in zip(feed.ids, feed.weights)]

    def call(self, n):
        module = self.block.module
        module.config._experts_implementation = self.implementation
        with torch.inference_mode():
            self.y = module(self.x, *self.routings[n % len(self.routings)])

    def output(self):
        return self.y

    def close(self):
        self.block = self.routings = None


# -------------------------------------------------------------------------------------------- ONNX Runtime --


class OnnxRuntime:
    """One com.microsoft.MoE node. Its router takes the softmax over the k largest logits, so logits that are the
    logarithms of the routing weights make it choose and weigh as told."""

    def __init__(self, shape, dtype, threads):
        import onnxruntime

        if dtype == "bf16":
            raise Absent("has no bf16 on a CPU")
        self.shape, self.dtype = shape, DTYPES[dtype]
        self.runtime = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(self.model().SerializeToString(), options,
                                                        providers=["CPUExecutionProvider"])
        except Exception as error:  # it has classes of its own for what it does not implement
            raise Absent(short(error)) from error
        self.gate_up = torch.empty(shape.experts, 2 * shape.intermediate, shape.hidden, dtype=self.dtype)
        self.down = torch.empty(shape.experts, shape.hidden, shape.intermediate, dtype=self.dtype)

    def model(self):
        from onnx import TensorProto, helper

        shape = self.shape
        element = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}[self.dtype]
        sizes = {"x": ["T", shape.hidden], "logits": ["T", shape.experts],
                 "gate_up": [shape.experts, 2 * shape.intermediate, shape.hidden],
                 "down": [shape.experts, shape.hidden, shape.intermediate]}
        node = helper.make_node("MoE", ["x", "logits", "gate_up", "", "down"], ["y"], domain="com.microsoft",
                                k=shape.top_k, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0,
                                activation_beta=0.0, normalize_routing_weights=1)
        graph = helper.make_graph(
            [node], "block", [helper.make_tensor_value_info(name, element, size) for name, size in sizes.items()],
            [helper.make_tensor_value_info("y", element, ["T", shape.hidden])])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def give(self, number, gate_up, down):
        gate, up = gate_up.chunk(2)
        self.gate_up[number, 0::2] = gate
        self.gate_up[number, 1::2] = up
        self.down[number] = down

    def value(self, tensor):
        """The same memory, as the runtime sees it."""
        return self.runtime.OrtValue.ortvalue_from_numpy(tensor.numpy())

    def begin(self, feed):
        self.y = torch.empty_like(feed.x)
        shared = {name: self.value(tensor) for name, tensor in
                  (("x", feed.x), ("gate_up", self.gate_up), ("down", self.down))}
        y = self.value(self.y)
        self.bindings = []
        for ids, weights in zip(feed.ids, feed.weights):
            logits = torch.full((feed.tokens, self.shape.experts), -30000.0).scatter_(1, ids, weights.log())
            logits = logits.to(self.dtype)
            binding = self.session.io_binding()
            for name, value in shared.items():
                binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_input("logits", self.value(logits))
            binding.bind_ortvalue_output("y", y)
            self.bindings.append((binding, logits))

    def call(self, n):
        self.session.run_with_iobinding(self.bindings[n % len(self.bindings)][0])

    def output(self):
        return self.y

    def close(self):
        self.session = self.bindings = self.gate_up = self.down = None


IMPLEMENTATIONS = {"torch-eager": "eager", "torch-batched": "batched_mm", "torch-grouped": "grouped_mm"}


def versions():
    return {name: metadata.version(name) for name in ("torch", "transformers", "onnxruntime")}
