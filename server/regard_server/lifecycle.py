"""The life of a server process, from the first line to the exit status.

start ─→ serve ─→ SIGTERM or Ctrl-C ─→ not ready ─→ drain_delay_s ─→ drain ─→ exit 0
│                              └─ a second signal ─→ exit at once
└─→ the device thread failed ─→ exit 1, so that whoever watches starts another
"""

import asyncio
import gc
import logging
import os
import signal
from typing import Any

from regard_server.app import Server
from regard_server.errors import UnavailableError
from regard_server.settings import Settings

EXIT_FAILED = 1
# How many more objects there must be than at the last look of the garbage collector, instead of 700: what requests
# leave behind is freed at once, so that it mostly walked over those in flight.
_ALLOCATIONS_A_COLLECTION = 20_000


async def run(settings: Settings, logger: logging.Logger) -> int:
    """Serve until told to stop; return the exit status."""
    server = Server(settings, logger)
    stopping = _watch_signals(logger)
    try:
        await server.start()
    except OSError as error:
        logger.error("%s", error)  # noqa: TRY400 - the message is for an operator; a traceback would hide it
        return EXIT_FAILED
    logger.info("listening on %s, loading %s", server.address, ", ".join(server.catalog.states))
    announcing = asyncio.create_task(_announce(server, logger, settings))
    ends: list[asyncio.Future[Any]] = [stopping, server.failed]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    logger.info("draining for up to %.0f s", settings.drain_delay_s + settings.drain_timeout_s)
    ended = await server.drain(settings.drain_timeout_s, delay_s=settings.drain_delay_s)
    logger.info("stopped")
    status = EXIT_FAILED if server.failed.done() else 0
    if not ended:
        os._exit(status)  # an interpreter that is torn down under a thread of torch aborts instead
    return status


async def _announce(server: Server, logger: logging.Logger, settings: Settings) -> None:
    """Tell whoever started this where it is: people on standard output, with what to try; machines in the log."""
    try:
        await server.ready()
    except UnavailableError:
        return  # logged by the server, and `failed` ends the process
    settle_memory()
    lines = [f"regard is ready on {server.address}"]
    if settings.log_format == "text":
        if server.metrics_address:
            lines.append(f"metrics:  http://{server.metrics_address}/metrics")
            if settings.page:
                lines.append(f"page:     http://{server.metrics_address}/")
        for model, fingerprint in server.catalog.known():
            trained = "trained" if model.trained else "UNTRAINED, vectors mean little"
            lines.append(f"model:    {model.name} ({trained}), fingerprint {fingerprint[:12]}")
        lines.append(f"try:      regard extract {_connection(server.address, settings)} PHOTO.jpg")
        print("\n".join(lines), flush=True)  # noqa: T201 - the answer to the command, not a log
    else:
        logger.info("%s", lines[0])


def _connection(address: str, settings: Settings) -> str:
    """Return the options that bring `regard extract` here."""
    host, colon, port = address.rpartition(":")
    secure = settings.tls_certificate is not None
    if host in {"0.0.0.0", "[::]"} or (secure and host == "127.0.0.1"):  # noqa: S104 - a name, for certificates
        address = f"localhost{colon}{port}"
    options = f"--target {address}"
    if secure:
        options += f" --ca {settings.tls_certificate}"
    if settings.tls_client_authority:
        options += " --certificate PEM --key PEM"
    if settings.tokens_file:
        options += " --token-file FILE"
    return options


def settle_memory() -> None:
    """Keep the garbage collector from what was there before the first request.

    Torch alone is hundreds of thousands of objects; walking over them stopped every caller for 0.1 s now and then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_A_COLLECTION)


def _watch_signals(logger: logging.Logger) -> asyncio.Future[None]:
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if stopping.done():
            logger.warning("%s again: leaving at once", number.name)
            os._exit(128 + number)
        logger.info("%s: stopping", number.name)
        stopping.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
