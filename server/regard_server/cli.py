"""`regard serve`: from a command line to a running server."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from regard_server.cores import WAIT_POLICY
from regard_server.frontend.direct.probe import unchecked
from regard_server.frontend.polling import begin_again
from regard_server.settings import InvalidSettingsError, load_settings

EXIT_USAGE = 2


def serve(argv: Sequence[str]) -> int:
    """Serve in the foreground; with `--check`, only say whether the settings would do. Returns the exit status."""
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--check", action="store_true")
    chosen, rest = flags.parse_known_args(list(argv))
    if not chosen.check:
        _heed_sigterm()
    try:
        settings = load_settings(rest)
    except InvalidSettingsError as error:
        return _refuse(error)
    if not chosen.check and settings.frontend != "public" and unchecked() is None:
        begin_again(argv)
    prepare_libraries()
    from regard_server.gpu_jpeg import decoder_faults  # noqa: PLC0415 - imports torch
    from regard_server.security.faults import security_faults  # noqa: PLC0415 - beside its companion
    from regard_server.sources import InvalidSourceError, resolve_sources, weights_faults  # noqa: PLC0415 - torch

    faults = security_faults(settings)
    sources: list[tuple[str, str]] = []
    try:
        sources = resolve_sources(settings.models)
    except InvalidSourceError as error:
        faults.append(str(error))
    if chosen.check:
        faults += [*weights_faults(sources), *decoder_faults(settings)]
    if faults:
        return _refuse("\n".join(faults))
    if chosen.check:
        for name, value in settings.model_dump().items():
            print(f"{name} = {value!r}")  # noqa: T201 - the command's answer
        print(f"ok: would serve {', '.join(name for name, _ in sources)} on {settings.address}")  # noqa: T201
        return 0
    from regard_server.lifecycle import run  # noqa: PLC0415 - imports torch
    from regard_server.log import configure_logging  # noqa: PLC0415 - beside its companion

    return asyncio.run(run(settings, configure_logging(settings.log_level, settings.log_format)))


def prepare_libraries() -> None:
    """Set what OpenMP and Pillow read of the environment as they are imported, unless the operator has."""
    # Threads that spin while they wait are fast alone, and collapse when another process takes a core.
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
    # What glibc was asked for in blocks of more than 32 MB goes back to the system. Of Pillow's own, of 16, it kept
    # 0.2 GB for each thread that had decoded a large picture.
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")


def _heed_sigterm() -> None:
    """End the process with status 0 if it is told to stop before it has begun; `lifecycle.run` takes over from here.

    The first process of a container never hears a SIGTERM that it has no handler for: told to stop while it imports
    torch, it would begin to serve all the same, and be killed in the midst of it.
    """

    def leave(*_: object) -> None:
        os._exit(0)  # out of the midst of an import

    signal.signal(signal.SIGTERM, leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see `begin_again`


def profile(argv: Sequence[str]) -> int:
    """Measure how a model runs best on this machine, and keep the choice for `regard serve`.

    Takes the model's name or file, and the options of `regard serve` that concern engines.
    """
    if not argv or argv[0].startswith("-"):
        print("usage: regard profile NAME|FILE.safetensors [options of `regard serve`]", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    try:
        settings = load_settings(["--models", *argv])
    except InvalidSettingsError as error:
        return _refuse(error)
    prepare_libraries()
    from regard_server.profiling import profile_models  # noqa: PLC0415 - imports torch

    return profile_models(settings)


def _refuse(error: Exception | str) -> int:
    print(f"regard serve: these settings cannot be served with:\n{error}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE
