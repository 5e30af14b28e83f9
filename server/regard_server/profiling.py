"""`regard profile`: measure a model's modes on this machine, print them, and keep the choice."""

import logging
from collections.abc import Iterator

from regard_models import load_bundle
from regard_server.app import engine_options
from regard_server.cores import usable_cores
from regard_server.engine import Engine
from regard_server.engine.profile import Measurement, Profile
from regard_server.settings import Settings
from regard_server.sources import resolve_sources


def profile_models(settings: Settings) -> int:
    """Profile every model of the settings; return the exit status."""
    options = engine_options(settings, settings.device.partition(",")[0], usable_cores())
    engine = Engine(options, logging.getLogger("regard"))
    for name, source in resolve_sources(settings.models):
        found = engine.profile(load_bundle(source, name=name, seed=settings.seed), measure=True)
        print("\n".join(_table(name, found)))  # noqa: T201 - the command's answer
    print(f"kept in {options.cache}" if options.cache else "kept nowhere: cache_dir is empty")  # noqa: T201
    return 0


def _table(name: str, found: Profile) -> Iterator[str]:
    yield f"{name}: {found.chosen}"
    yield f"  {'mode':<20}{'images/s':>10}{'alone ms':>10}{'cosine mean':>13}{'worst':>9}"
    yield from (_line(each, chosen=each.mode == found.chosen) for each in found.measured)


def _line(each: Measurement, *, chosen: bool) -> str:
    return (
        f"{'→' if chosen else ' '} {each.mode!s:<20}{each.images_per_s:>10.1f}{each.alone_s * 1000:>10.2f}"
        f"{each.cosine_mean:>13.5f}{each.cosine_worst:>9.5f}"
    )
