"""Which front end serves: the direct one where this grpcio bears it, or else the public one.

frontend = "auto" ─→ a checked version? ─→ the names and signatures? ─→ a rehearsal ─→ direct
                      └─────────no──────────────┴───────────no─────────────┴────no────→ public, and a line in the log
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from regard_server.frontend.direct.probe import misfit, unchecked
from regard_server.frontend.public import PublicFrontEnd
from regard_server.frontend.routes import Routes

if TYPE_CHECKING:
    from regard_server.frontend.direct.server import DirectFrontEnd

Choice: TypeAlias = Literal["auto", "public", "direct"]
FrontEnd: TypeAlias = "PublicFrontEnd | DirectFrontEnd"
Options = Sequence[tuple[str, Any]]


class FrontEndError(OSError):
    """The direct front end was asked for by name, and cannot serve here."""


async def make_front_end(
    choice: Choice, routes: Routes, options: Options, logger: logging.Logger, *, max_calls: int | None = None
) -> "FrontEnd":
    """Make the front end that was chosen. Whoever names the direct one may try it on an unchecked version.

    Raises:
        FrontEndError: it was named, and does not work here.
    """
    if choice == "public":
        return PublicFrontEnd(routes, options, max_calls=max_calls)
    doubt = unchecked()
    trouble = misfit() if choice == "direct" or not doubt else doubt
    trouble = trouble or await _trouble_in_rehearsal(logger)
    if trouble and choice == "direct":
        raise FrontEndError(
            f"the direct front end cannot serve: {trouble}; expected frontend = auto or public"
        )
    if trouble:
        logger.warning("serving through grpc.aio, which costs more: %s", trouble)
        return PublicFrontEnd(routes, options, max_calls=max_calls)
    if doubt:
        logger.warning("serving directly as told, though %s", doubt)
    from regard_server.frontend.direct.server import DirectFrontEnd  # noqa: PLC0415 - after the probe

    return DirectFrontEnd(routes, options, logger, max_calls=max_calls)


async def _trouble_in_rehearsal(logger: logging.Logger) -> str | None:
    from regard_server.frontend.direct.rehearsal import rehearse  # noqa: PLC0415 - after the probe

    try:
        await rehearse(logger)
    except Exception as error:  # noqa: BLE001 - whatever it is, the public front end serves instead
        return str(error) or repr(error)
    return None
