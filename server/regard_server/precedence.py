"""Who gets a core first: whoever has a little to do, before the network that would keep every core busy.

    event loop, the thread that waits for calls    a core at once, for some 100 µs
    decoders                                       likewise, for a millisecond
    networks on the CPU                            nicer, if so set: everything that is left, which is nearly all

Under overload the event loop is due 800 times a second. Where the network was as urgent it waited 0.24 ms for a core on
average, and one turn in a hundred took 4 ms or more. Decoders that were nicer, too, came too late to fill the next
batch: the default network got 4 to 7 pictures at a time instead of 11 (README of tests/benchmarks).
"""

import os
import sys
import threading


def give_way(by: int) -> None:
    """Raise the niceness of the calling thread, and of those that it starts from now on, by so much, to 19 at most.

    Other systems than Linux have it for whole processes only; there this does nothing.

    Raises:
        OSError: a sandbox forbids it.
    """
    if sys.platform != "linux" or not by:
        return
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + by)
