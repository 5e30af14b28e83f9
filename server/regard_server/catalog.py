"""What is served: the models' descriptions, without the models.

A catalogue knows the names from the start; descriptions come when the device thread has loaded the weights.
"""

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from regard_models import OutputInfo, Preprocessing
from regard_server.errors import ModelNotFoundError, UnavailableError, UnknownOutputError, quote, suggest

LOADING_RETRY_S = 1.0


class ModelState(enum.Enum):
    """What a model is doing."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class ServedModel:
    """A model that was loaded: everything about it but the network.

    Attributes:
        name: what requests call it.
        weights: where they come from, for people.
        weights_sha256: hash over their keys, shapes and bytes.
        trained: False where they were drawn from a seed.
        architecture: canonical JSON.
        preprocessing: how images are made ready.
        outputs: what may be asked for, by name.
        parameters: how many there are.
        min_side: the least height and width of a float tensor.
        compute_dtype: "float32", ….
        engine: "eager", ….
        device: "cpu", "cuda:0".
        exact: outputs of pictures that `engine` does not give: a float32 network beside it does.
    """

    name: str
    weights: str
    weights_sha256: str
    trained: bool
    architecture: str
    preprocessing: Preprocessing
    outputs: Mapping[str, OutputInfo]
    parameters: int
    min_side: int
    compute_dtype: str
    engine: str
    device: str
    exact: frozenset[str] = frozenset()

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over everything that changes the vectors."""
        identity = {
            "weights": self.weights_sha256,
            "architecture": self.architecture,
            "preprocessing": asdict(self.preprocessing),
            "outputs": [asdict(output) for output in self.outputs.values()],
            "dtype": self.compute_dtype,
            "engine": self.engine,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def check_outputs(self, names: Sequence[str]) -> None:
        """Check that every output exists.

        Raises:
            UnknownOutputError: one does not; the message lists near names.
        """
        for name in names:
            if name not in self.outputs:
                hint = suggest(name, self.outputs)
                raise UnknownOutputError(f"model {self.name!r} has no output {quote(name)}{hint}")


class Catalog:
    """The models by name, the first being the default. Written by the event loop, read anywhere."""

    def __init__(self, names: Sequence[str]) -> None:
        self.states: dict[str, ModelState] = dict.fromkeys(names, ModelState.LOADING)
        self._models: dict[str, tuple[ServedModel, str]] = {}

    @property
    def default(self) -> str:
        """The name that an empty name stands for."""
        return next(iter(self.states))

    def add(self, model: ServedModel) -> None:
        """Put a loaded model's description in; it becomes ready with `set_states`."""
        self._models[model.name] = (model, model.fingerprint)

    def set_states(self, state: ModelState) -> None:
        """Put all models into one state."""
        self.states = dict.fromkeys(self.states, state)

    def known(self) -> list[tuple[ServedModel, str]]:
        """Return the models that were loaded, each with its fingerprint, in the configuration's order."""
        return [self._models[name] for name in self.states if name in self._models]

    def check_name(self, name: str) -> None:
        """Check that a model of this name is configured, whatever its state.

        Raises:
            ModelNotFoundError: there is none; the message lists near names.
        """
        if name not in self.states:
            raise ModelNotFoundError(f"no model {quote(name)} is served{suggest(name, self.states)}")

    def find(self, name: str) -> tuple[ServedModel, str]:
        """Return a model that is ready, and its fingerprint.

        Raises:
            ModelNotFoundError: see `check_name`.
            UnavailableError: it is being loaded, or broken.
        """
        name = name or self.default
        self.check_name(name)
        state = self.states[name]
        if state is ModelState.LOADING:
            raise UnavailableError(f"model {name!r} is being loaded", retry_after_s=LOADING_RETRY_S)
        if state is ModelState.FAILED:
            raise UnavailableError(f"model {name!r} is broken; the server's log says why")
        return self._models[name]
