"""How a network is run: by which engine, in which arithmetic.

    engine     what it is                                                     where
    eager      the modules as they are: the reference                         everywhere
    folded     norms folded into convolutions, channels-last                  everywhere
    compiled   folded, through torch.compile, batches padded to fixed sizes   where the compiler is that it calls
    openvino   folded, through OpenVINO, one graph for all batch sizes        x86 and ARM CPUs, extra "openvino"

A ready float tensor, and outputs other than the embedding where an engine gives only that, run on the folded
network in float32 whatever the mode is.
"""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Literal

EngineName = Literal["eager", "folded", "compiled", "openvino"]
Arithmetic = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run a network."""

    engine: EngineName
    dtype: Arithmetic

    def __str__(self) -> str:
        return f"{self.engine} {self.dtype}"


EAGER = Mode("eager", "float32")
FOLDED = Mode("folded", "float32")

# In the order of preference between equals: the more exact and the simpler come first.
_ON_CPU = (
    EAGER,
    FOLDED,
    Mode("folded", "bfloat16"),
    Mode("openvino", "float32"),
    Mode("openvino", "bfloat16"),
)
_ON_CUDA = (EAGER, FOLDED, Mode("folded", "bfloat16"), Mode("folded", "float16"))
_COMPILED = (Mode("compiled", "float32"), Mode("compiled", "bfloat16"), Mode("compiled", "float16"))


def is_available(mode: Mode, device: str) -> bool:
    """Tell whether this machine can run a mode."""
    on_cpu = device == "cpu"
    if on_cpu and mode.dtype == "float16":  # slow, and with little range
        return False
    match mode.engine:
        case "openvino":
            return on_cpu and importlib.util.find_spec("openvino") is not None
        case "compiled":
            return _has_compiler("CXX", "g++") if on_cpu else _has_compiler("CC", "gcc", "clang")
        case _:
            return True


def candidates(
    device: str, *, engine: str = "auto", dtype: str = "auto", compiled: bool = False
) -> list[Mode]:
    """Return the available modes that fit what was asked for.

    "auto" fits every engine but the compiled ones, which take up to a minute for each batch size, unless `compiled`.
    """
    compiled = compiled or engine == "compiled"
    known = (*(_ON_CPU if device == "cpu" else _ON_CUDA), *(_COMPILED if compiled else ()))
    return [
        mode
        for mode in known
        if engine in {"auto", mode.engine} and dtype in {"auto", mode.dtype} and is_available(mode, device)
    ]


def _has_compiler(variable: str, *names: str) -> bool:
    """Tell whether a compiler is found as torch and Triton find theirs: by a variable, else by these names."""
    named = os.environ.get(variable)
    return any(shutil.which(name) for name in ((named,) if named else names))
