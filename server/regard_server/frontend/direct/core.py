"""grpcio's private interface to gRPC's core, behind a few verbs: the one file that knows its names.

    CoreServer        ports, calls to come, the queue that the thread takes events from, the end
    CoreCall          one call: receive, send, finish; a finished operation comes back as `on_done(event)`

Everything that is used here is probed by `probe.py` before a server is built on it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # private, and so without a stub

OnDone: TypeAlias = Callable[[Any], None]
Taken: TypeAlias = tuple[OnDone, Any]
Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

_NO_FLAGS: Final = 0
_DONE: Final = cygrpc.CompletionType.operation_complete
_COMPRESSIONS: Final = {
    grpc.Compression.NoCompression: "identity",
    grpc.Compression.Deflate: "deflate",
    grpc.Compression.Gzip: "gzip",
}
# gRPC's "never", in seconds, is the largest of 64 bits; no deadline that somebody means is that far away.
_NEVER_S: Final = 1e15


class CallOverError(Exception):
    """An operation that the core did not begin: the call is over, or an operation of its kind is under way."""


class CoreServer:
    """A server of gRPC's core with a completion queue of its own.

    Args:
        options: channel arguments.
        on_call: gets the event of every call that was asked for, whose `success` says whether one came; for
            `CoreCall`. Called by whoever took the event.
    """

    def __init__(self, options: Sequence[tuple[str, Any]], on_call: OnDone) -> None:
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)  # noqa: FBT003 - no xDS
        self._server.register_completion_queue(self._queue)
        self._on_call = on_call

    def bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Bind an address and return the port; 0 where that fails."""
        encoded = address.encode()
        try:
            if credentials is None:
                return int(self._server.add_http2_port(encoded))
            private: Any = credentials
            return int(self._server.add_http2_port(encoded, private._credentials))  # noqa: SLF001 - no other way
        except RuntimeError:
            return 0

    def start(self) -> None:
        """Listen."""
        self._server.start()

    def ask(self) -> None:
        """Ask for one more call."""
        self._server.request_call(self._queue, self._queue, self._on_call)

    def take(self, *, wait: bool) -> Taken | None:
        """Take one event; None where there is none to take, or if waited for, none any more."""
        event = self._queue.poll() if wait else self._queue.poll(0)
        if event.completion_type == _DONE:
            return event.tag, event
        return None

    def shut_down(self, on_done: OnDone) -> None:
        """Take no more calls; `on_done` comes when the last one is over."""
        self._server.shutdown(self._queue, on_done)

    def cancel_all(self) -> None:
        """Cancel every call."""
        self._server.cancel_all_calls()

    def destroy(self) -> None:
        """Give everything back; the queue runs dry and `take` returns None."""
        self._server.destroy()
        self._queue.shutdown()


class CoreCall:
    """A call that has come in. Its verbs begin an operation and return; `on_done` gets its event later.

    Raises, all of them:
        CallOverError: the core refuses the operation.
    """

    __slots__ = ("_call", "_compression", "_deadline", "_next_flags", "_opened", "metadata", "method")

    def __init__(self, event: Any) -> None:
        details = event.call_details
        self._call = event.call
        self._deadline: float = details.deadline
        self._opened = False
        self._compression: Metadata = ()
        self._next_flags = _NO_FLAGS
        self.method: str = details.method.decode("utf-8", "replace")
        self.metadata: Metadata = event.invocation_metadata

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, on the clock of the wall; None: never."""
        return None if self._deadline > _NEVER_S else self._deadline

    @property
    def opened(self) -> bool:
        """Whether initial metadata went out, alone or with the first message."""
        return self._opened

    def watch(self, on_done: OnDone) -> None:
        """Ask to be told when the call is over; see `left`."""
        self._begin((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), on_done)

    def receive(self, on_done: OnDone) -> None:
        """Receive one message; see `message`."""
        self._begin((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), on_done)

    def compress(self, compression: grpc.Compression) -> None:
        """Ask the core to compress messages, where the caller reads them so; before the call is opened."""
        self._compression = ((cygrpc.GRPC_COMPRESSION_REQUEST_ALGORITHM_MD_KEY, _COMPRESSIONS[compression]),)

    def leave_next_message(self) -> None:
        """Send the next message as it is."""
        self._next_flags = cygrpc.WriteFlag.no_compress

    def open(self, metadata: Metadata, on_done: OnDone) -> None:
        """Send initial metadata."""
        self._begin((self._opening(metadata),), on_done)

    def send(self, message: bytes, on_done: OnDone) -> None:
        """Send one message, and what opens the call if it is the first."""
        sending = self._sending(message)
        self._begin((sending,) if self._opened else (self._opening(), sending), on_done)

    def finish(self, message: bytes | None, code: int, details: str, trailing: Metadata) -> None:
        """Send what is left to be sent, a last message among it, and the status; nobody waits for it."""
        operations = [] if self._opened else [self._opening()]
        if message is not None:
            operations.append(self._sending(message))
        operations.append(cygrpc.SendStatusFromServerOperation(trailing, code, details.encode(), _NO_FLAGS))
        self._begin(operations, ignore)

    def refuse(self, code: int, details: str, trailing: Metadata) -> None:
        """Send nothing but a status, and receive nothing; instead of all other verbs, and nobody waits for it."""
        status = cygrpc.SendStatusFromServerOperation(trailing, code, details.encode(), _NO_FLAGS)
        over = cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS)
        self._begin((over, self._opening(), status), ignore)

    def peer(self) -> str:
        """Return the caller's address."""
        return str(self._call.peer().decode())

    def identities(self) -> tuple[str | None, Sequence[bytes] | None, Mapping[str, Iterable[bytes]]]:
        """Return who the caller is under TLS: (key of identity, identities, every property)."""
        key = cygrpc.peer_identity_key(self._call)
        properties = cygrpc.auth_context(self._call) or {}
        return (
            None if key is None else key.decode(),
            cygrpc.peer_identities(self._call),
            {name.decode(): values for name, values in properties.items()},
        )

    def _opening(self, metadata: Metadata = ()) -> Any:
        self._opened = True
        return cygrpc.SendInitialMetadataOperation((*metadata, *self._compression), _NO_FLAGS)

    def _sending(self, message: bytes) -> Any:
        flags, self._next_flags = self._next_flags, _NO_FLAGS
        return cygrpc.SendMessageOperation(message, flags)

    def _begin(self, operations: Sequence[Any], on_done: OnDone) -> None:
        if self._call.start_server_batch(operations, on_done):
            raise CallOverError(
                "gRPC's core refused an operation: the call is over, or one like it is under way"
            )


def left(event: Any) -> bool:
    """Return whether a call that is over (`CoreCall.watch`) was given up rather than answered."""
    return bool(event.batch_operations[0].cancelled())


def message(event: Any) -> bytes | None:
    """Return what `CoreCall.receive` received; None where nothing more comes."""
    received: bytes | None = event.batch_operations[0].message()
    return received


def ignore(_: Any) -> None:
    """Do nothing about an event that nobody waits for."""
