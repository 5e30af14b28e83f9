"""What the `models` setting means: names of models and where their weights are."""

from collections.abc import Sequence
from pathlib import Path

from regard_models import DEFAULT_MODEL, ModelError, list_models, load_bundle
from regard_server.errors import suggest

SUFFIX = ".safetensors"


class InvalidSourceError(ValueError):
    """Model sources that cannot be served; the message has one line a fault."""


def resolve_sources(models: Sequence[str]) -> list[tuple[str, str]]:
    """Return (name, source) for every model, a source being a registered name or a path.

    Raises:
        InvalidSourceError: an unknown name, a missing file, or a name given twice; all of them are reported.
    """
    resolved: list[tuple[str, str]] = []
    faults: list[str] = []
    for given in models or (DEFAULT_MODEL,):
        name, _, source = given.rpartition("=")
        name = name or (Path(source).stem if source.endswith(SUFFIX) else source)
        if source.endswith(SUFFIX):
            if not Path(source).is_file():
                faults.append(f"models: there is no file {source}")
        elif source not in list_models():
            faults.append(f"models: no model is called {source!r}{suggest(source, list_models())}")
        if name in dict(resolved):
            faults.append(f"models: {name!r} is given twice; tell them apart with NAME=FILE{SUFFIX}")
        resolved.append((name, source))
    if faults:
        raise InvalidSourceError("\n".join(faults))
    return resolved


def weights_faults(sources: Sequence[tuple[str, str]]) -> list[str]:
    """Open every file of weights as serving would; return a line for each that is of no use."""
    faults = []
    for name, source in sources:
        if source.endswith(SUFFIX):
            try:
                load_bundle(source, name=name)
            except ModelError as error:
                faults.append(f"models: {error}")
    return faults
