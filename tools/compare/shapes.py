# SPDX-License-Identifier: Apache-2.0
"""Layer sizes by name or number, and the other words of the command line."""
import pathlib
import re
from dataclasses import dataclass

TYPES = {"f32": 4, "f16": 2, "bf16": 2}  # bytes
ROUTINGS = ("uniform", "zipf", "single")


@dataclass(frozen=True)
class Shape:
    name: str
    experts: int
    hidden: int
    intermediate: int
    top_k: int

    def weight_bytes(self, dtype):
        return 3 * self.experts * self.hidden * self.intermediate * TYPES[dtype]


def named():
    """The names that the command-line tool knows, out of its own table."""
    text = (pathlib.Path(__file__).resolve().parent.parent / "shapes.c").read_text(encoding="utf-8")
    found = re.findall(r'\{"([^"]+)", (\d+), (\d+), (\d+), (\d+)\}', text)
    return {name: Shape(name, *map(int, sizes)) for name, *sizes in found}


def parse(text):
    """Names and E,H,I,k, with blanks or semicolons between: "olmoe-1b-7b 64,2048,1024,8"."""
    known, shapes = named(), []
    for word in re.split(r"[;\s]+", text.strip()):
        if word in known:
            shapes.append(known[word])
        elif re.fullmatch(r"\d+(,\d+){3}", word):
            shapes.append(Shape(word, *map(int, word.split(","))))
        elif "," in word and all(part in known for part in word.split(",")):
            shapes += [known[part] for part in word.split(",")]
        else:
            raise ValueError(f"{word}: a shape is E,H,I,k or one of {', '.join(known)}")
    for shape in shapes:
        if min(shape.experts, shape.hidden, shape.intermediate, shape.top_k) < 1 or shape.top_k > shape.experts:
            raise ValueError(f"{shape.name}: E, H, I and k must be at least 1, and k no more than E")
    return shapes
