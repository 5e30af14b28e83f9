"""Networks run by torch: as they are, folded, or compiled.

uint8 (B, H, W, 3) ─→ device ─→ (x - mean) / std, in float32 ─→ dtype ─→ network ─→ float32 ─→ host
"""

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final

import numpy.typing as npt
import torch
from torch import Tensor, nn

from regard_models import Preprocessing
from regard_models.folding import fold
from regard_server.engine.mode import Mode
from regard_server.engine.runner import Arrays
from regard_server.engine.streams import Streams, Uploaded
from regard_server.work import BatchKey

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Normalised(nn.Module):
    """A network behind its normalisation: bytes in, embedding out. What other engines trace and compile.

    Args:
        network: a backbone of regard_models.
        preprocessing: its mean and standard deviation.
        dtype: what the network computes in.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.mean = nn.Buffer(_per_channel(preprocessing.mean))
        self.std = nn.Buffer(_per_channel(preprocessing.std))

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, 3, H, W) in the network's dtype, channels-last in memory."""
        normalised = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return normalised.to(self.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, D) float32."""
        extract: Any = self.network.extract
        embedding: Tensor = extract(self.normalise(pixels), ("embedding",))["embedding"]
        return embedding.float()


class TorchRunner:
    """Any output of any input, in one mode; compiled it covers the embedding of pixels only.

    Args:
        network: a backbone of regard_models in eval mode.
        preprocessing: how its images are made ready.
        mode: an engine of torch's, and a dtype.
        device: where to.
        streams: how pictures get there and features back.
        sizes: batch sizes that a compiled network is padded to.
        recorder: the one thread that a compiled network is run by, if not the caller's.
        on_padded: told of every batch that was, by how many rows.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        mode: Mode,
        device: torch.device,
        *,
        streams: Streams,
        sizes: Sequence[int] = (),
        recorder: Executor | None = None,
        on_padded: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._on_padded = on_padded
        if mode.engine == "eager" and device.type != "cpu":
            network = copy.deepcopy(network)  # moving it there would leave its owner's there, too
        if mode.engine != "eager":
            network = fold(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._dtype = DTYPES[mode.dtype]
        self._streams = streams
        self._module = (
            Normalised(network.to(device, self._dtype), preprocessing, self._dtype).to(device).eval()
        )
        self.weights_bytes = sum(each.nbytes for each in self._module.state_dict().values())
        self._recorder = recorder if mode.engine == "compiled" else None
        self._sizes = sorted(sizes)
        # "reduce-overhead" records a CUDA graph for every batch size; the CPU has none.
        self._effort = "reduce-overhead" if device.type == "cuda" else None
        self._compiled: dict[int, Callable[[Normalised, Tensor], Tensor]] | None = (
            {} if mode.engine == "compiled" else None
        )

    @property
    def network(self) -> Any:
        """The network itself."""
        return self._module.network

    def covers(self, key: BatchKey, output: str) -> bool:
        """Tell whether it gives an output in its mode; `run` gives the others too, but not compiled."""
        return self._compiled is None or (key.form == "pixels" and output == "embedding")

    @torch.inference_mode()
    def run(self, key: BatchKey, pictures: npt.NDArray[Any], outputs: Sequence[str]) -> Arrays:
        """Return any outputs of a batch."""
        uploaded = self._streams.upload(pictures)
        if self._recorder is None:
            return self._begin(key, uploaded, outputs)()
        return self._recorder.submit(self._begin, key, uploaded, outputs).result()()

    @torch.inference_mode()
    def _begin(self, key: BatchKey, uploaded: Uploaded, outputs: Sequence[str]) -> Callable[[], Arrays]:
        """Queue a batch's computing, and the copy of what it gives; return what waits for that."""
        with self._streams.computing(uploaded):
            return self._streams.download(self._compute(key, uploaded.batch, outputs))

    def _compute(self, key: BatchKey, batch: Tensor, outputs: Sequence[str]) -> Mapping[str, Tensor]:
        if self._compiled is not None and key.form == "pixels" and tuple(outputs) == ("embedding",):
            padded = _pad(batch, self._sizes)
            if len(padded) > len(batch):
                self._on_padded(len(padded) - len(batch))
            compiled = self._compiled.get(len(padded))
            if compiled is None:
                compiled = self._compiled[len(padded)] = _compile(self._effort)
            # A copy: a graph gives the same memory each time, and the next batch may be computed before this is read.
            return {"embedding": compiled(self._module, padded)[: len(batch)].clone()}
        ready = self._module.normalise(batch) if key.form == "pixels" else batch.to(self._dtype)
        found: Mapping[str, Tensor] = self.network.extract(ready, outputs)
        return found


def _compile(effort: str | None) -> Callable[[Normalised, Tensor], Tensor]:
    """Return a function of its own that becomes machine code at its first call.

    torch counts what it has compiled of a function's code, for all networks together, and runs the ninth and later ones
    without a compiler (torch._dynamo.config.recompile_limit): four models, or two in all batch sizes.
    """
    plain: Any = Normalised.forward
    own = types.FunctionType(plain.__code__.replace(), plain.__globals__, plain.__name__)
    compiled: Callable[[Normalised, Tensor], Tensor] = torch.compile(own, dynamic=False, mode=effort)
    return compiled


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1) * 255  # in the units of bytes


def _pad(batch: Tensor, sizes: Sequence[int]) -> Tensor:
    size = next((each for each in sizes if each >= len(batch)), len(batch))
    return (
        torch.nn.functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, size - len(batch)))
        if size > len(batch)
        else batch
    )
