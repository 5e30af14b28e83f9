"""`regard profile`: measure a model's modes on this machine, print them, and keep what was found."""

import logging
import time
from collections.abc import Iterator

from regard_models import ModelBundle, load_bundle
from regard_server.app import engine_options
from regard_server.cores import usable_cores
from regard_server.engine import Engine
from regard_server.engine.choice import Choice
from regard_server.engine.profile import Measurement
from regard_server.settings import Settings
from regard_server.sources import resolve_sources


def profile_models(settings: Settings) -> int:
    """Profile every model of the settings on every kind of device; return the exit status."""
    devices = settings.device.split(",")
    cores = usable_cores() // len(devices)
    logger = logging.getLogger("regard")
    engines = [Engine(engine_options(settings, name, cores), logger) for name in dict.fromkeys(devices)]
    for name, source in resolve_sources(settings.models):
        for kind, engine in {engine.kind: engine for engine in engines}.items():
            bundle = load_bundle(source, name=name, seed=settings.seed)
            found = engine.choose(bundle, again=True)
            print("\n".join(_table(f"{name} on {kind}", found)))  # noqa: T201 - the command's answer
            if found.mode.engine == "compiled":
                print(f"  {_compile(engine, bundle)}")  # noqa: T201
    kept = f"kept in {settings.cache_dir}" if settings.cache_dir else "kept nowhere: cache_dir is empty"
    print(kept)  # noqa: T201
    return 0


def _compile(engine: Engine, bundle: ModelBundle) -> str:
    """Compile for every batch size, so that the server's start finds it done."""
    began = time.perf_counter()
    engine.load(bundle)
    engine.warm_up()
    return f"compiled for every batch size in {time.perf_counter() - began:.0f} s"


def _table(title: str, found: Choice) -> Iterator[str]:
    yield f"{title}: {found.mode}"
    yield f"  {'mode':<20}{'images/s':>10}{'alone ms':>10}{'cosine mean':>13}{'worst':>9}"
    yield from (_line(each, chosen=each.mode == found.mode) for each in found.profile.measured)
    yield from (f"  {mode!s:<20}cannot run it" for mode in found.profile.failed)


def _line(each: Measurement, *, chosen: bool) -> str:
    return (
        f"{'→' if chosen else ' '} {each.mode!s:<20}{each.images_per_s:>10.1f}{each.alone_s * 1000:>10.2f}"
        f"{each.cosine_mean:>13.5f}{each.cosine_worst:>9.5f}"
    )
