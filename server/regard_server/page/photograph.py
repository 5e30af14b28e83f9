"""A photograph that somebody dropped on the page: its nearest samples, and where the network looks.

It goes the way of every request (`pipeline.py`): the same admission, the same batches, the same refusals.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from regard_models import OutputInfo
from regard_models.samples import sample_photographs
from regard_server.catalog import Catalog, ServedModel
from regard_server.errors import RegardError, UnknownOutputError, quote, suggest
from regard_server.images import ImageLimits, decode
from regard_server.pipeline import Pipeline
from regard_server.request import Picture, Request, Result

TIMEOUT_S: Final = 10.0
SHOWN: Final = 4
"""How many neighbours."""
_SPATIAL: Final = ("height", "width")
_EMBEDDING: Final = "embedding"


@dataclass(frozen=True)
class Looked:
    """What was found, for `figures.py` to put into words.

    Attributes:
        model: who looked.
        fingerprint: its fingerprint.
        result: the pipeline's answer, which holds no error.
        seen: the pixels that went into the network, (H, W, 3) uint8.
        neighbours: names of sample photographs and their cosines, the nearest first.
        shown: the attention map that was asked for; None: none.
    """

    model: ServedModel
    fingerprint: str
    result: Result
    seen: npt.NDArray[np.uint8]
    neighbours: Sequence[tuple[str, float]]
    shown: OutputInfo | None

    @property
    def attention(self) -> npt.NDArray[np.float32] | None:
        """The map over places, (H', W'), of several slots the strongest; None: none was asked for."""
        if self.shown is None or not isinstance(self.result.outcome, dict):
            return None
        values = self.result.outcome[self.shown.name]
        strongest: npt.NDArray[np.float32] = values.reshape(-1, *values.shape[-2:]).max(axis=0)
        return strongest


def maps_over_places(model: ServedModel) -> list[OutputInfo]:
    """Return the attention maps that can lie over a picture, the last being the nearest to the embedding."""
    return [
        output
        for output in model.outputs.values()
        if output.kind == "attention" and output.axes[-2:] == _SPATIAL
    ]


def why_no_map(model: ServedModel) -> str:
    """Say why nothing of a model's attention can lie over a picture."""
    kinds = {" × ".join(output.axes) for output in model.outputs.values() if output.kind == "attention"}
    if not kinds:
        return f"{model.name} has no attention mechanism, so there is nothing to lay over the photograph."
    return (
        f"{model.name} attends over {' and over '.join(sorted(kinds))}, not over places, so its attention has no "
        "place in the photograph."
    )


class Looker:
    """Asks the pipeline. Runs on the event loop.

    Args:
        pipeline: does the work.
        catalog: what is served.
        limits: what a photograph may be.
        clock: the pipeline's.
    """

    def __init__(
        self, *, pipeline: Pipeline, catalog: Catalog, limits: ImageLimits, clock: Callable[[], float]
    ) -> None:
        self._pipeline = pipeline
        self._catalog = catalog
        self._limits = limits
        self._clock = clock
        self._samples: dict[str, npt.NDArray[np.float32]] = {}

    async def look(self, data: bytes, name: str, shown: str) -> Looked:
        """Look at an encoded photograph.

        Args:
            data: the file.
            name: of the model; "": the default one.
            shown: of the attention map; "": none.

        Raises:
            RegardError: as `Extract` would answer.
        """
        model, fingerprint = self._catalog.find(name)
        over_places = {output.name: output for output in maps_over_places(model)}
        if shown and shown not in over_places:
            hint = suggest(shown, over_places) if over_places else f": {why_no_map(model)}"
            raise UnknownOutputError(f"model {model.name!r} has no map {quote(shown)} over places{hint}")
        seen: list[npt.NDArray[np.uint8]] = []
        outputs = (_EMBEDDING, shown) if shown else (_EMBEDDING,)
        [result] = await self._extract(model, [self._picture(data, model, seen)], outputs)
        vector = _embedding(result)
        samples = await self._sample_vectors(model, fingerprint)
        return Looked(model, fingerprint, result, seen[0], _nearest(vector, samples), over_places.get(shown))

    async def _sample_vectors(self, model: ServedModel, fingerprint: str) -> npt.NDArray[np.float32]:
        """Return the samples' embeddings, (samples, D), computed when they are first needed."""
        if fingerprint not in self._samples:
            pictures = [self._picture(path.read_bytes(), model, []) for path in sample_photographs()]
            results = await self._extract(model, pictures, (_EMBEDDING,))
            self._samples[fingerprint] = np.stack([_embedding(result) for result in results])
        return self._samples[fingerprint]

    async def _extract(
        self, model: ServedModel, pictures: Sequence[Picture], outputs: tuple[str, ...]
    ) -> Sequence[Result]:
        arrived = self._clock()
        request = Request(
            model=model,
            pictures=pictures,
            outputs=outputs,
            arrived=arrived,
            deadline=arrived + TIMEOUT_S,
            priority=0,
        )
        results = await self._pipeline.extract(request)
        self._pipeline.answered(request, results, request.deadline)
        return results

    def _picture(self, data: bytes, model: ServedModel, seen: list[npt.NDArray[np.uint8]]) -> Picture:
        def read() -> list[npt.NDArray[np.uint8]]:
            pixels = decode(data, self._limits, model.preprocessing)
            seen.append(pixels)
            return [pixels]

        return Picture(read, len(data), "pixels", model.preprocessing.height, model.preprocessing.width)


def samples_by_name() -> dict[str, Path]:
    """Return the sample photographs by their files' names."""
    return {path.name: path for path in sample_photographs()}


def png(pixels: npt.NDArray[np.uint8]) -> str:
    """Return (H, W, 3) as a PNG file in base 64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _embedding(result: Result) -> npt.NDArray[np.float32]:
    if isinstance(result.outcome, RegardError):
        raise result.outcome
    return result.outcome[_EMBEDDING].reshape(-1)


def _nearest(vector: npt.NDArray[np.float32], samples: npt.NDArray[np.float32]) -> list[tuple[str, float]]:
    """Return the samples with the highest cosine: (D,), (samples, D) -> names and cosines."""
    tiny = float(np.finfo(np.float32).tiny)
    lengths = np.linalg.norm(samples, axis=1) * np.linalg.norm(vector)
    cosines = samples @ vector / np.maximum(lengths, tiny)
    names = [path.name for path in sample_photographs()]
    return [(names[index], float(cosines[index])) for index in np.argsort(-cosines)[:SHOWN]]
