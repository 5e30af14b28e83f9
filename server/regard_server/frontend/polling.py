"""Who reads the sockets: by default threads of gRPC's own, which hand every message to the one that takes events.

With its "event_engine_listener" off, gRPC's core reads them in the thread that takes events. A unary call then wakes
nobody else, and costs the server a quarter less processor time (173 and 124 µs; README of tests/benchmarks). The core
reads the variable when it is imported, and the command line has imported it by the time that the settings are known: so
a process that only serves begins once more, under the same number.
"""

import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from typing import Final

VARIABLE: Final = "GRPC_EXPERIMENTS"
BY_ITSELF: Final = "-event_engine_listener"


def begin_again(argv: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Replace this process by one like it that reads its sockets itself, where it is `regard serve` and nothing else.

    Returns where there is nothing to do: the variable is set, by whom it may be, or the process is another's, who
    calls `serve` with these arguments.
    """
    if VARIABLE in environment or sys.orig_argv[-len(argv) - 1 :] != ["serve", *argv]:
        return
    environment[VARIABLE] = BY_ITSELF
    # A container's first process never hears a SIGTERM for which it has no handler; this one waits until it has.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(environment))  # noqa: S606 - itself
