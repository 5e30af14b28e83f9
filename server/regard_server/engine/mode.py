"""How a network is run: by which engine, in which arithmetic.

    engine     what it is                                                     where
    eager      the modules as they are: the reference                         everywhere
    folded     norms folded into convolutions, channels-last                  everywhere
    compiled   folded, through torch.compile, batches padded to fixed sizes   where a C++ compiler is, and on CUDA
    openvino   folded, through OpenVINO, one graph for all batch sizes        x86 and ARM CPUs, extra "openvino"

A ready float tensor, and outputs other than the embedding where an engine gives only that, run on the folded
network in float32 whatever the mode is.
"""

import importlib.util
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

# In the order in which they are tried. Compiled ones take up to a minute each: only if they are asked for.
_ON_CPU = (
    EAGER,
    FOLDED,
    Mode("folded", "bfloat16"),
    Mode("openvino", "float32"),
    Mode("openvino", "bfloat16"),
)
_ON_CUDA = (EAGER, FOLDED, Mode("folded", "bfloat16"), Mode("folded", "float16"))
_COMPILED = (Mode("compiled", "float32"), Mode("compiled", "bfloat16"))


def is_available(mode: Mode, device: str) -> bool:
    """Tell whether this machine can run a mode."""
    on_cpu = device == "cpu"
    match mode.engine:
        case "openvino":
            return on_cpu and importlib.util.find_spec("openvino") is not None
        case "compiled":
            return not on_cpu or shutil.which("c++") is not None or shutil.which("g++") is not None
        case _:
            return not (on_cpu and mode.dtype == "float16")  # slow, and with little range


def candidates(device: str, *, engine: str = "auto", dtype: str = "auto") -> list[Mode]:
    """Return the available modes that fit what was asked for; "auto" fits every engine but the compiled ones."""
    known = (*(_ON_CPU if device == "cpu" else _ON_CUDA), *(_COMPILED if engine == "compiled" else ()))
    return [
        mode
        for mode in known
        if engine in {"auto", mode.engine} and dtype in {"auto", mode.dtype} and is_available(mode, device)
    ]
