"""What a server has to offer: its models, and what may be asked of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from regard_proto.v1 import features_pb2 as pb

State: TypeAlias = Literal["unknown", "loading", "ready", "failed"]
OutputKind: TypeAlias = Literal["unknown", "embedding", "logits", "feature_map", "attention"]

_STATES: Final[Mapping[int, State]] = MappingProxyType(
    {
        pb.MODEL_STATE_LOADING: "loading",
        pb.MODEL_STATE_READY: "ready",
        pb.MODEL_STATE_FAILED: "failed",
    }
)
_KINDS: Final[Mapping[int, OutputKind]] = MappingProxyType(
    {
        pb.OUTPUT_KIND_EMBEDDING: "embedding",
        pb.OUTPUT_KIND_LOGITS: "logits",
        pb.OUTPUT_KIND_FEATURE_MAP: "feature_map",
        pb.OUTPUT_KIND_ATTENTION: "attention",
    }
)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the network's input.

    Its shorter side is resized to `resize` pixels, the middle height × width cut out, divided by 255, `mean`
    subtracted and divided by `std`, for R, G and B.
    """

    height: int
    width: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """Something a model can give; `shape` is that for images at its own input size, without a batch axis."""

    name: str
    kind: OutputKind
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; tensor sides are in pixels."""

    max_images: int
    max_image_bytes: int
    max_pixels: int
    max_message_bytes: int
    min_tensor_side: int
    max_tensor_side: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model and what may be asked of it.

    Attributes:
        name: what requests call it.
        is_default: whether requests that name no model get this one.
        fingerprint: 64 hexadecimal digits; vectors are comparable only where they are equal.
        state: what it is doing.
        weights: where its weights come from, for people.
        trained: whether they were trained; if not, vectors have the right shape and little meaning.
        architecture: for people, as JSON.
        preprocessing: how images are made ready.
        outputs: what may be asked for, by name.
        compute_dtype: what the network computes in, for people.
        engine: how it is run, for people.
        device: where it is run, for people.
        limits: what one request may hold.
        parameters: how many it has.
    """

    name: str
    is_default: bool
    fingerprint: str
    state: State
    weights: str
    trained: bool
    architecture: str
    preprocessing: Preprocessing
    outputs: Mapping[str, OutputInfo]
    compute_dtype: str
    engine: str
    device: str
    limits: Limits
    parameters: int


def read_model(model: pb.Model) -> Model:
    """Return a model's description; states and kinds of newer servers are "unknown"."""
    preprocessing, limits = model.preprocessing, model.limits
    return Model(
        name=model.name,
        is_default=model.is_default,
        fingerprint=model.fingerprint,
        state=_STATES.get(model.state, "unknown"),
        weights=model.weights,
        trained=model.trained,
        architecture=model.architecture,
        preprocessing=Preprocessing(
            height=preprocessing.height,
            width=preprocessing.width,
            resize=preprocessing.resize,
            interpolation=preprocessing.interpolation,
            mean=tuple(preprocessing.mean),
            std=tuple(preprocessing.std),
        ),
        outputs={output.name: _read_output(output) for output in model.outputs},
        compute_dtype=model.compute_dtype,
        engine=model.engine,
        device=model.device,
        limits=Limits(
            max_images=limits.max_images,
            max_image_bytes=limits.max_image_bytes,
            max_pixels=limits.max_pixels,
            max_message_bytes=limits.max_message_bytes,
            min_tensor_side=limits.min_tensor_side,
            max_tensor_side=limits.max_tensor_side,
        ),
        parameters=model.parameters,
    )


def _read_output(output: pb.OutputInfo) -> OutputInfo:
    return OutputInfo(
        name=output.name,
        kind=_KINDS.get(output.kind, "unknown"),
        shape=tuple(output.shape),
        axes=tuple(output.axes),
        description=output.description,
    )
