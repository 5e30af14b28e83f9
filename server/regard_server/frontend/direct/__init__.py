"""gRPC's core without gRPC's Python layers: one thread takes events, one hop brings them to the event loop.

    network ═ core ═ completion queue ─→ thread "grpc": take every event, begin to receive
                                              │ a call and its message, a finished write, a caller who left
                                              ▼ one call_soon_threadsafe for all that has gathered
                                         event loop: one task a call, the servicer in it
                                              │ status, message and metadata in one batch
    network ═ core ◀──────────────────────────┘

`core.py` alone knows grpcio's private interface, `probe.py` whether it is the one that was checked.
"""
