"""gRPC's core without gRPC's Python layers: the event loop takes events itself, a thread waits when there are none.

    thread "grpc": wait ─→ the first event after a quiet time ─┐ call_soon_threadsafe
          ▲                                                    ▼
          │                     event loop: take events until there are none, give every task its turn, take again …
          └── all is quiet ──────┘             │ a call and its message, a finished write, a caller who left
                                               ▼
                                    one task a call, the servicer in it; status, message and metadata in one batch

While there is work, one thread does all of it. With a second one that takes events, the two hand the interpreter's
lock to each other at every operation of the core, which cost as much as the calls themselves.

`core.py` alone knows grpcio's private interface, `probe.py` whether it is the one that was checked.
"""
