"""The way of a request, once, for every protocol: admit ─→ decode ─→ batch ─→ run ─→ split.

Servicers translate their messages into a `Request` and a `Reply` back; what stands here knows no wire. It runs
on the event loop: decoding happens in a pool of threads, running in the device's thread.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy.typing as npt

from regard_server.admission import Admission
from regard_server.batcher import Batcher, Outcome
from regard_server.decoding import DecodePool
from regard_server.errors import (
    DeadlineExpiredError,
    InvalidImageError,
    NonFiniteOutputError,
    OverloadedError,
    RegardError,
    UnavailableError,
)
from regard_server.metrics import Metrics
from regard_server.request import Picture, Request, Result, Timings
from regard_server.reuse import Outputs, Reuse, content_key
from regard_server.waiting import Entry
from regard_server.work import BatchKey, Work

_MAPS = frozenset({"feature_map", "attention"})
# Errors that are never one picture's alone, and the outcome that all its pictures are counted as.
_WHOLE_REQUEST: dict[type[RegardError], str] = {
    DeadlineExpiredError: "late",
    OverloadedError: "shed",
    UnavailableError: "failed",
}


class Pipeline:
    """The steps in order, with what they share.

    Args:
        admission: who may come in.
        decoders: where pictures are read.
        batcher: where they wait for the device.
        metrics: what is counted on the way.
        clock: monotonic seconds; must be the running loop's own (`loop.time`).
        reuse: answers of identical pictures; None: each is computed.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        decoders: DecodePool,
        batcher: Batcher,
        metrics: Metrics,
        clock: Callable[[], float],
        reuse: Reuse | None = None,
    ) -> None:
        self._reuse = reuse
        self._admission = admission
        self._decoders = decoders
        self._batcher = batcher
        self._metrics = metrics
        self._clock = clock

    async def extract(self, request: Request) -> list[Result]:
        """Return one result for every picture, in order.

        Raises:
            DeadlineExpiredError: the deadline passed before all were answered.
            OverloadedError: there is no room.
            UnavailableError: the server is shutting down, or its device failed.
        """
        size = sum(picture.size_bytes for picture in request.pictures)
        self._metrics.received_bytes.inc(size)
        try:
            if request.deadline <= self._clock():
                raise DeadlineExpiredError("the deadline had passed when the request arrived")
            if request.patient:
                async with asyncio.timeout_at(request.deadline):
                    await self._admission.room(images=len(request.pictures), size_bytes=size)
            with self._admission.admit(images=len(request.pictures), size_bytes=size):
                keys = self._reserve(request)
                async with asyncio.timeout_at(request.deadline):
                    results = await self._extract_all(request, keys)
            _raise_of_whole_request(results)
        except TimeoutError as error:
            self._count(request, "late")
            waited = self._clock() - request.arrived
            raise DeadlineExpiredError(f"the deadline passed after {waited:.3f} s") from error
        except asyncio.CancelledError:
            self._count(request, "cancelled")
            raise
        except RegardError as error:
            self._count(request, _WHOLE_REQUEST.get(type(error), "failed"))
            raise
        for result in results:
            self._metrics.items.labels(request.model.name, _outcome_label(result)).inc()
            if isinstance(result.outcome, NonFiniteOutputError):
                self._metrics.embeddings.nonfinite(request.model.name)
        return results

    def _reserve(self, request: Request) -> list[BatchKey]:
        """Promise room at the device to every picture; return the kind of batch that each will ride in."""
        keys = [_batch_key(request, picture) for picture in request.pictures]
        slow = sum(not picture.quick for picture in request.pictures)
        ready = self._decoders.ready_at(slow) if slow else request.arrived
        promised: list[tuple[BatchKey, int]] = []
        try:
            for key, count in Counter(keys).items():
                self._batcher.reserve(key, count, ready=ready, deadline=request.deadline)
                promised.append((key, count))
        except RegardError:
            for key, count in promised:
                self._batcher.release(key, count)
            raise
        return keys

    async def _extract_all(self, request: Request, keys: Sequence[BatchKey]) -> list[Result]:
        if len(keys) == 1:  # no task for the commonest case
            return [await self._extract_one(request, request.pictures[0], keys[0])]
        tasks = [
            asyncio.create_task(self._extract_one(request, picture, key))
            for picture, key in zip(request.pictures, keys, strict=True)
        ]
        try:
            # Not a TaskGroup: a cancelled one holds its frames, and so the pictures, in a reference cycle.
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # those beside a bug; the others are done

    async def _extract_one(self, request: Request, picture: Picture, key: BatchKey) -> Result:
        try:
            if self._reuse is not None and picture.content is not None:
                return await self._share(self._reuse, request, picture, key)
            return await self._compute(request, picture, key)
        except RegardError as error:  # this picture's alone
            return Result(error, Timings(total_s=self._clock() - request.arrived))

    async def _compute(self, request: Request, picture: Picture, key: BatchKey) -> Result:
        started = self._clock()
        try:
            pixels = await self._read(picture, key)
        except RegardError as error:
            now = self._clock()
            return Result(error, Timings(decode_s=now - started, total_s=now - request.arrived))
        decoded = self._clock()
        outcome = await self._run(request, pixels, key, decoded)
        self._metrics.decode_seconds.labels(request.model.name).observe(decoded - started)
        timings = Timings(
            decode_s=decoded - started,
            queue_s=outcome.queue_s,
            compute_s=outcome.compute_s,
            total_s=self._clock() - request.arrived,
            batch_size=outcome.batch_size,
        )
        return Result(outcome.value, timings)

    async def _share(self, reuse: Reuse, request: Request, picture: Picture, key: BatchKey) -> Result:
        """Compute a picture, or take the answer of its like; only the one who computes needs the room at the device."""
        own: Result | None = None
        led = False

        async def compute() -> Outputs:
            nonlocal own, led
            led = True
            own = await self._compute(request, picture, key)
            if isinstance(own.outcome, RegardError):
                raise own.outcome
            return own.outcome

        try:
            content = picture.content() if picture.content else ()
            outputs, source = await reuse.get(
                content_key(content, request.model.name, request.outputs), compute
            )
        except RegardError:
            if own is not None:  # with its timings
                return own
            raise
        finally:
            if not led:
                self._batcher.release(key, 1)
        self._metrics.reused.labels(request.model.name, source).inc()
        return own or Result(outputs, Timings(total_s=self._clock() - request.arrived))

    async def _read(self, picture: Picture, key: BatchKey) -> npt.NDArray[Any]:
        try:
            return picture.read() if picture.quick else await self._decoders.read(picture.read)
        except BaseException:  # cancelled, too: the room goes to somebody else
            self._batcher.release(key, 1)
            raise

    async def _run(self, request: Request, pixels: npt.NDArray[Any], key: BatchKey, now: float) -> Outcome:
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = Entry(
            key=key,
            payload=Work(pixels, request.outputs),
            owner=answer,
            deadline=request.deadline,
            priority=request.priority,
            arrived=now,
        )
        self._batcher.submit(entry)
        try:
            return await answer
        except BaseException:
            self._batcher.discard(entry)  # whoever leaves early must not be computed for
            raise

    def _count(self, request: Request, outcome: str) -> None:
        self._metrics.items.labels(request.model.name, outcome).inc(len(request.pictures))


def _raise_of_whole_request(results: Sequence[Result]) -> None:
    for result in results:
        if isinstance(result.outcome, RegardError) and type(result.outcome) in _WHOLE_REQUEST:
            raise result.outcome


def settle(outcomes: Sequence[Outcome], metrics: Metrics) -> None:
    """Answer the callers of a batch; runs on the event loop."""
    ran = [outcome for outcome in outcomes if outcome.batch_size]
    if ran:
        model = ran[0].entry.key.model  # type: ignore[attr-defined]  # a BatchKey; the batcher only hashes it
        metrics.batch_size.labels(model).observe(ran[0].batch_size)
        metrics.compute_seconds.labels(model).observe(ran[0].compute_s)
        metrics.embeddings.offer(model, ran[0].value)
        for outcome in ran:
            metrics.queue_seconds.labels(model).observe(outcome.queue_s)
    for outcome in outcomes:
        answer: asyncio.Future[Outcome] = outcome.entry.owner
        if not answer.done():
            answer.set_result(outcome)


def _batch_key(request: Request, picture: Picture) -> BatchKey:
    kinds = {request.model.outputs[name].kind for name in request.outputs}
    cost: Literal["pooled", "maps"] = "maps" if kinds & _MAPS else "pooled"
    return BatchKey(request.model.name, picture.form, picture.height, picture.width, cost)


def _outcome_label(result: Result) -> str:
    match result.outcome:
        case dict():
            return "ok"
        case InvalidImageError():
            return "invalid"
        case _:
            return "failed"
