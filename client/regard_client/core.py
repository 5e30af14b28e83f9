"""What both clients share: everything about a request but waiting for its answer. No channel, no thread, no loop.

read_image ─→ Rider ─→ Coalescer ─→ Ride ─→ request  ═══ gRPC, in client.py and aio.py ═══  outcome ─→ result
                       coalescing.py        core.py                                         core.py
"""

import itertools
import secrets
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import grpc

from regard_client.coalescing import Coalescing
from regard_client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    FingerprintMismatchError,
    InternalServerError,
    MessageTooLargeError,
    OverloadedError,
    RegardError,
)
from regard_client.images import Picture
from regard_client.query import Priority, Query
from regard_client.readiness import Readiness
from regard_client.results import Result, read_results
from regard_client.statuses import error_of_call
from regard_client.throttle import Throttle
from regard_proto.v1 import features_pb2 as pb

Outputs: TypeAlias = str | Sequence[str]

# Alone every caller: what `coalesce=False` means.
_APART: Final = Coalescing(max_images=1, in_flight=1 << 30)

# A caller asks the same again and again; making the query anew cost a tenth of the call.
_MOST_QUERIES: Final = 64


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that failed, for all of its riders: each raises an error of its own from it."""

    cause: grpc.RpcError
    request_id: str


# Of one rider. A message is read once for all of them; an error is one rider's own, to be raised to him.
Outcome: TypeAlias = Result | Exception | Failed


def coalescing(choice: bool | Coalescing) -> Coalescing:  # noqa: FBT001 - it is the client's option of that name
    """Return what the client's `coalesce` option stands for."""
    if isinstance(choice, Coalescing):
        return choice
    return Coalescing() if choice else _APART


def bulk_limits(choice: bool | Coalescing) -> Coalescing:  # noqa: FBT001 - see above
    """Return what one message of many images holds: as much as coalesced ones, however those are chosen."""
    return choice if isinstance(choice, Coalescing) else Coalescing()


class Core:
    """One client's defaults, pinned fingerprints and names for requests.

    Args:
        target: the server's address, for messages.
        query: what is asked unless a call says otherwise.
        expected_fingerprint: the only version that may answer; "pin" for the one that answers first.
        priority: of all calls; None for "interactive" where one image is asked for and "bulk" for many.
        sent_per_accepted: see `Throttle`.
    """

    def __init__(
        self,
        target: str,
        query: Query,
        expected_fingerprint: str | None,
        priority: Priority | None,
        *,
        sent_per_accepted: float,
    ) -> None:
        self._throttle = Throttle(sent_per_accepted, target)
        self._is_closed = False
        self._target = target
        self._pins: bool = expected_fingerprint == "pin"
        self._pinned: dict[str, str] = {}
        if priority is not None:
            query = replace(query, priority=priority)  # so that a wrong one is told of now
        fixed = "" if self._pins else expected_fingerprint or ""
        self._priority = priority
        self._query = replace(query, expected_fingerprint=fixed)
        self._queries: dict[tuple[str, tuple[str, ...], str, str], Query] = {}
        self._client_id = secrets.token_hex(4)
        self._counter = itertools.count(1)

    def query(self, outputs: Outputs, model: str | None, priority: Priority = "interactive") -> Query:
        """Return what one call asks; with "pin", of the version that answered before.

        The priority is that of the kind of call; the client's own goes before it.
        """
        name = self._query.model if model is None else model
        wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        expected = self._pinned.get(name, self._query.expected_fingerprint)
        asked = (name, wanted, priority, expected)
        query = self._queries.get(asked)
        if query is None:
            query = replace(
                self._query,
                model=name,
                priority=self._priority or priority,
                outputs=wanted,
                expected_fingerprint=expected,
            )
            if len(self._queries) >= _MOST_QUERIES:
                self._queries.clear()
            self._queries[asked] = query
        return query

    def request(self, query: Query, pictures: Sequence[Picture]) -> pb.ExtractRequest:
        """Return a message for some images, under a name of its own."""
        return query.request(pictures, f"{self._client_id}-{next(self._counter)}")

    def check(self, query: Query, response: pb.ExtractResponse, images: int) -> None:
        """Refuse a response that does not fit its request; pin its fingerprint if that is asked.

        Raises:
            InternalServerError: it has another number of results than there were images.
            FingerprintMismatchError: another version answered than the one expected.
        """
        error = self._misfit(query, response, images)
        if error is not None:
            raise error

    def _misfit(self, query: Query, response: pb.ExtractResponse, images: int) -> RegardError | None:
        """Return what `check` raises."""
        if len(response.results) != images:
            return InternalServerError(
                f"{self._target} answered {images} images with {len(response.results)} results",
                request_id=response.request_id,
            )
        expected = query.expected_fingerprint
        if self._pins and response.fingerprint:
            # The server minds this once a fingerprint is known; first calls may run beside each other.
            expected = self._pinned.setdefault(query.model, response.fingerprint)
        if expected and response.fingerprint != expected:
            return FingerprintMismatchError(
                f"{self._target} answered with {response.model!r} of fingerprint {response.fingerprint!r}; "
                f"expected {expected!r}",
                request_id=response.request_id,
            )
        return None

    def admit(self, query: Query, timeout_s: float, now_s: float) -> None:
        """Let one image's caller go on.

        Raises:
            OverloadedError: the server has been refusing most of such calls, and this one is not sent.
        """
        self._throttle.check(query, timeout_s, now_s)

    def outcomes(self, query: Query, response: pb.ExtractResponse, images: int) -> Sequence[Outcome]:
        """Return what a response means for each image of its message: a result, or why there is none; see `check`."""
        error = self._misfit(query, response, images)
        return read_results(response) if error is None else [copy(error) for _ in range(images)]

    def result(self, query: Query, outcome: Outcome, timeout_s: float) -> Result:
        """Return one image's result out of what became of it.

        Raises:
            RegardError: the call failed, or its response does not fit the request: another number of results
                than there were images, or another fingerprint than the one expected.
            Exception: whatever else came of sending the message, or of reading its answers.
        """
        if isinstance(outcome, Result):
            if isinstance(outcome.error, OverloadedError):
                self._throttle.refused(query, timeout_s, time.monotonic(), outcome.error.retry_after_s)
            else:
                self._throttle.accepted(query, timeout_s, time.monotonic())
            return outcome
        if isinstance(outcome, Failed):
            error = self.translate(outcome.cause, outcome.request_id)
            if isinstance(error, DeadlineExceededError) and not error.reason:
                error = self.late(timeout_s)  # gRPC's own, which does not say how long it was
            if isinstance(error, OverloadedError):
                self._throttle.refused(query, timeout_s, time.monotonic(), error.retry_after_s)
            raise error from outcome.cause
        raise outcome

    def translate(self, cause: grpc.RpcError, request_id: str = "") -> RegardError:
        """Return the error that a failed call means."""
        return error_of_call(cause, target=self._target, request_id=request_id, closed=self._is_closed)

    def readiness(self, model: str | None, timeout_s: float) -> Readiness:
        """Return a wait for a model, or with an empty name for the service."""
        return Readiness(self._target, self._query.model if model is None else model, timeout_s)

    def late(self, timeout_s: float) -> DeadlineExceededError:
        """Return the error of a caller whose own deadline passed, whatever its message is doing."""
        return DeadlineExceededError(f"{self._target}: no answer within {timeout_s:g} s")

    def close(self) -> None:
        """Take note that whatever is cancelled from now on is the client's own doing."""
        self._is_closed = True

    def unreadable(self) -> InternalServerError:
        """Return the error of a caller whose reply is no message of its method's type."""
        return InternalServerError(f"{self._target} sent a reply that cannot be read; is it a regard server?")

    def closed(self) -> ClientClosedError:
        """Return the error of a caller that comes too late for this client."""
        return ClientClosedError(f"the client of {self._target} is closed")


def is_too_much(error: RegardError) -> bool:
    """Tell whether a message was refused for what it holds in all, so that halves of it may pass."""
    return isinstance(error, MessageTooLargeError) or error.reason in {"TOO_MANY_IMAGES", "REPLY_TOO_LARGE"}


def only(result: Result) -> Result:
    """Return the result of a caller's one image; its error is the caller's.

    Raises:
        RegardError: the image has no features.
    """
    if result.error is not None:
        raise result.error
    return result


def own(error: Exception) -> Exception:
    """Return an error for one more caller: one object, raised in several, would gather the tracebacks of all."""
    try:
        another = copy(error).with_traceback(error.__traceback__)
    except Exception:  # noqa: BLE001 - of a class that cannot be made from its arguments: better shared than lost
        return error
    another.__cause__, another.__suppress_context__ = error.__cause__, error.__suppress_context__
    return another
