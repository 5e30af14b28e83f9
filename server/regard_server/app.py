"""The server, put together from its parts.

    settings ─→ Server(settings) ─ start() ─→ bound, loading ─ ready() ─→ warm ─ drain() ─→ stopped

Nothing here knows about processes or signals (see `lifecycle.py`), so tests and other hosts can run it in an
event loop of their own.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from regard_models import ModelError
from regard_proto.v1.features_pb2 import DESCRIPTOR, ExtractRequest
from regard_proto.v1.features_pb2_grpc import add_FeatureServiceServicer_to_server
from regard_server.admission import Admission
from regard_server.batcher import Batcher, Outcome
from regard_server.budget import MemoryBudget
from regard_server.build import this_build
from regard_server.call_book import CallBook
from regard_server.capacity import BatchCapacity
from regard_server.catalog import Catalog, ModelState, ServedModel
from regard_server.cores import usable_cores
from regard_server.cost import CostModel
from regard_server.decoding import DecodePool
from regard_server.device import DeviceThread
from regard_server.device_gauges import DeviceGauges
from regard_server.embeddings import EmbeddingHealth
from regard_server.engine import Bounds, Engine, EngineOptions, Profiles, read_device
from regard_server.errors import UnavailableError
from regard_server.foresight import Foresight
from regard_server.frontend.choose import FrontEnd, make_front_end
from regard_server.frontend.routes import Handler, Routes
from regard_server.gpu_jpeg import decoding_device, open_gpu_jpegs
from regard_server.health import SERVICE, Health
from regard_server.hold import Hold
from regard_server.images import ImageLimits, JpegReader
from regard_server.interceptors import CallInterceptor
from regard_server.metrics import Metrics
from regard_server.observe import ObservationPort
from regard_server.page import Page, has_form, make_page
from regard_server.pipeline import Pipeline
from regard_server.reply import guarded
from regard_server.reuse import Reuse
from regard_server.scheduler import Scheduler
from regard_server.security.callers import caller_of
from regard_server.security.door import TokenDoor
from regard_server.security.tls import Tls, TlsFiles
from regard_server.security.tokens import Tokens
from regard_server.servicers.encode import serialized
from regard_server.servicers.extract import Extractor
from regard_server.servicers.features import FeatureServicer
from regard_server.servicers.health import HealthServicer
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.parsing import bounded_parser
from regard_server.servicers.requests import answer_by
from regard_server.settings import Settings, is_local
from regard_server.sources import resolve_sources
from regard_server.straight import settle
from regard_server.work import likeness

# What the device thread may still be busy with when everybody has been answered: the batch of callers who left.
_LAST_BATCH_S = 10.0


class Server:
    """One gRPC server over one device. Construct and `start` it in the event loop that it is to run in."""

    def __init__(self, settings: Settings, logger: logging.Logger) -> None:
        sources = resolve_sources(settings.models)
        cores = usable_cores()
        self.metrics = Metrics(
            EmbeddingHealth(
                samples_per_s=settings.embedding_samples_per_s,
                reference_samples=settings.embedding_reference_samples,
                folder=settings.cache_dir,
                logger=logger,
            )
        )
        self.catalog = Catalog([name for name, _ in sources])
        self.metrics.expect(
            models=self.catalog.states, methods=DESCRIPTOR.services_by_name["FeatureService"].methods_by_name
        )
        self.health = Health(self.catalog)
        self._settings = settings
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self.failed: asyncio.Future[BaseException] = self._loop.create_future()
        reuses = settings.deduplicate or settings.cache_bytes
        self._reuse = Reuse(settings.cache_bytes) if reuses else None
        self._admission = Admission(
            max_images=settings.max_in_flight_images,
            max_bytes=settings.max_in_flight_bytes,
            max_client_images=settings.max_client_images,
        )
        memory = MemoryBudget(settings.max_decoding_bytes)
        self._decoders = DecodePool(settings.decode_threads or cores, time.monotonic, memory)
        costs, capacity = CostModel(likeness), BatchCapacity(settings.max_batch)
        profiles = Profiles(settings.cache_dir, logger)
        devices = settings.device.split(",")
        self._batcher = Batcher(
            Scheduler(capacity, costs, Hold(settings.max_delay_s, costs), devices=len(devices)),
            self._deliver,
            clock=time.monotonic,
            logger=logger,
        )
        self._warm: dict[int, list[ServedModel]] = {}  # by the numbers of the devices that are ready
        self._devices = [
            DeviceThread(
                number=number,
                engine=partial(
                    Engine,
                    engine_options(settings, name, cores // len(devices)),
                    logger,
                    capacity,
                    self.metrics.padded_by,
                    profiles,
                ),
                sources=sources,
                seed=settings.seed,
                batcher=self._batcher,
                on_ready=partial(self._call_soon, partial(self._become_warm, number)),
                on_failure=lambda error: self._call_soon(self._become_failed, error),
                logger=logger,
                nicer=settings.compute_nice,
            )
            for number, name in enumerate(devices)
        ]
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, memory)
        self._pipeline = Pipeline(
            admission=self._admission,
            decoders=self._decoders,
            batcher=self._batcher,
            metrics=self.metrics,
            clock=time.monotonic,
            reuse=self._reuse,
        )
        self._page: Page | None = None
        if settings.metrics_address and settings.page:
            self._page = make_page(
                settings,
                metrics=self.metrics,
                catalog=self.catalog,
                pipeline=self._pipeline,
                limits=self._limits,
                loop=self._loop,
                ready=lambda: self.health.ready,
                queue_depth=lambda: self._batcher.waiting,
                in_flight=lambda: self._admission.images,
                logger=logger,
            )
        self._observation: ObservationPort | None = None
        if settings.metrics_address:
            self._observation = ObservationPort(
                settings.metrics_address,
                self.metrics.registry,
                live=lambda: all(device.alive for device in self._devices),
                ready=lambda: self.health.ready,
                page=self._page,
                max_body_bytes=settings.max_image_bytes if has_form(settings) else 0,
            )
        self.metrics.watch(
            devices=DeviceGauges(self._busy_s, read_device),
            queue_depth=lambda: self._batcher.waiting,
            images=lambda: self._admission.images,
            size=lambda: self._admission.bytes,
            cached=lambda: self._reuse.bytes if self._reuse else 0,
            ready=lambda: self.health.ready,
            most_images=settings.max_in_flight_images,
            most_bytes=settings.max_in_flight_bytes,
        )
        self._front_end: FrontEnd | None = None
        self.address = ""
        self.metrics_address = ""

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self._settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),  # what was asked for; requests are what is limited
            ("grpc.max_concurrent_streams", self._settings.max_concurrent_streams),
            ("grpc.max_allowed_incoming_connections", self._settings.max_connections),
            ("grpc.so_reuseport", 0),  # two servers on one port would be a mistake, not a cluster
            # Clients that ping an idle connection to keep it alive are welcome, every 10 s at most.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            # Who has connected and says nothing keeps a socket: two minutes by default.
            ("grpc.server_handshake_timeout_ms", 10_000),
        ]

    def _make_routes(self, jpeg_reader: JpegReader | None) -> Routes:
        settings = self._settings
        tokens = None
        if settings.tokens_file:
            tokens = Tokens(settings.tokens_file, self._logger, partial(self._count_reload, "tokens"))
        limits = RequestLimits(
            max_images=settings.max_images_per_request,
            image=self._limits,
            max_message_bytes=settings.max_message_bytes,
            max_tensor_side=settings.max_tensor_side,
            max_reply_bytes=settings.max_reply_bytes,
        )
        extractor = Extractor(
            pipeline=self._pipeline,
            catalog=self.catalog,
            limits=limits,
            metrics=self.metrics,
            default_timeout_s=settings.default_timeout_s,
            clock=time.monotonic,
            identify=partial(caller_of, tokens=tokens) if settings.max_client_images else lambda _: "",
            jpeg_reader=jpeg_reader,
            gather=self._reuse is None,  # else every picture is looked for by itself
        )
        servicer = FeatureServicer(
            extractor=extractor,
            pipeline=self._pipeline,
            catalog=self.catalog,
            limits=limits,
            default_timeout_s=settings.default_timeout_s,
            stream_window=settings.stream_window,
            draining=self.health.draining,
            logger=self._logger,
        )
        book = CallBook(self.metrics, self._logger)
        border = CallInterceptor(book, prefixes=(f"/{SERVICE}/",))
        parse = bounded_parser(settings.max_images_per_request)

        def wrap(method: str, handler: Handler) -> Handler:
            if handler.request_deserializer == ExtractRequest.FromString:
                handler = cast("Any", handler)._replace(
                    request_deserializer=parse, response_serializer=serialized
                )
            return border.wrap(method, handler)

        routes: Any = Routes(wrap)  # generated code takes whatever has a server's two methods
        add_FeatureServiceServicer_to_server(servicer, routes)
        routes.begun[f"/{SERVICE}/Extract"] = guarded("Extract", extractor.begin, parse, book)
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self.health), routes)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        described = reflection.aio.ReflectionServicer((SERVICE, health, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, routes)  # type: ignore[no-untyped-call]
        if tokens is not None:
            probes = {name for name in routes.methods if name.startswith(f"/{health}/")}
            routes.door = TokenDoor(tokens, border.refuse, probes)
        # What is remembered can be answered whatever waits, so where there is a memory every call is read.
        if len(self.catalog.states) == 1 and not settings.cache_bytes:
            routes.foresight = Foresight(
                f"/{SERVICE}/Extract",
                batcher=self._batcher,
                refuse=border.refuse_unread,
                metrics=self.metrics,
                model=self.catalog.default,
                answer_by=answer_by,
                default_timeout_s=settings.default_timeout_s,
                clock=time.monotonic,
            )
        return cast("Routes", routes)

    def _credentials(self) -> grpc.ServerCredentials | None:
        certificate, key = self._settings.tls_certificate, self._settings.tls_key
        if not certificate or not key:
            return None
        files = TlsFiles(certificate, key, self._settings.tls_client_authority)
        return Tls(files, self._logger, partial(self._count_reload, "certificate")).credentials()

    def _count_reload(self, what: str, went_well: bool) -> None:  # noqa: FBT001 - a callback of one fact
        self.metrics.reloads.labels(what, "ok" if went_well else "failed").inc()

    async def start(self) -> None:
        """Bind both ports and begin to load; `address` and `metrics_address` are known afterwards.

        Raises:
            OSError: an address cannot be bound, the front end or the GPU's decoder that was asked for cannot serve, or
                a file of certificates or tokens is of no use.
        """
        jpeg_reader = None
        if self._settings.jpeg_decoder == "gpu":
            jpeg_reader = open_gpu_jpegs(decoding_device(self._settings), self._logger)
        self._front_end = await make_front_end(
            self._settings.frontend,
            self._make_routes(jpeg_reader),
            self._options(),
            self._logger,
            max_calls=self._settings.max_concurrent_calls,
        )
        build = this_build()
        self.metrics.build_info.labels(build.version, self._front_end.name, str(build.compiled).lower()).set(
            1
        )
        wanted = self._settings.address
        credentials = self._credentials()
        port = self._front_end.listen(wanted, credentials)
        if self._settings.tokens_file and not credentials and not is_local(wanted):
            self._logger.warning("tokens travel in plain text to %s: set tls_certificate and tls_key", wanted)
        self.address = wanted if wanted.startswith("unix:") else f"{wanted.rpartition(':')[0]}:{port}"
        if self._observation:
            try:
                self.metrics_address = self._observation.start()
            except OSError as error:
                raise OSError(
                    f"cannot listen on {self._settings.metrics_address}: {error.strerror}"
                ) from error
        if self._page:
            self._page.start()
        await self._front_end.start()
        for device in self._devices:
            device.start()

    async def ready(self) -> None:
        """Wait until every model is warm.

        Raises:
            UnavailableError: the device thread failed; the cause is chained.
        """
        milestones: list[asyncio.Future[Any]] = [self._ready, self.failed]
        await asyncio.wait(milestones, return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            raise UnavailableError("the models could not be loaded") from self.failed.result()

    async def drain(self, timeout_s: float, *, delay_s: float = 0.0) -> bool:
        """Say that nobody is served any more, serve whoever has not heard of it, answer those inside, and stop.

        Args:
            timeout_s: how long those inside have.
            delay_s: for how long newcomers are served still, so that balancers that ask for the health now and then
                have asked before the port is closed.

        Returns whether the device thread has ended: it cannot be interrupted, and may be loading or busy still.
        """
        self.health.leave()
        if delay_s and not self.failed.done():
            await asyncio.wait([self.failed], timeout=delay_s)
        self.health.drain()
        if self._front_end:
            await self._front_end.stop(timeout_s)
        self._batcher.close()
        # What is loading is of use to nobody now, what is running only to those who were cut off.
        patience_s = _LAST_BATCH_S if self._ready.done() else 0.0
        ended = all([await asyncio.to_thread(device.join, patience_s) for device in self._devices])
        if not ended:
            self._logger.warning("the device thread is still busy; leaving it behind")
        self._decoders.close()
        if self._observation:
            await asyncio.to_thread(self._observation.close)
        if self._page:
            await asyncio.to_thread(self._page.close)
        return ended

    def _deliver(self, outcomes: Sequence[Outcome]) -> None:
        self._call_soon(partial(settle, metrics=self.metrics), outcomes)

    def _call_soon(self, callback: Callable[[Any], object], argument: object) -> None:
        with contextlib.suppress(RuntimeError):  # a thread that was left behind has nobody to tell any more
            self._loop.call_soon_threadsafe(callback, argument)

    def _busy_s(self) -> dict[str, float]:
        """Return for how long the devices that are ready have run batches, by their names."""
        busy: dict[str, float] = {}
        for number, models in list(self._warm.items()):
            name = models[0].device
            busy[name] = busy.get(name, 0.0) + self._batcher.busy_s(number)
        return busy

    def _become_warm(self, number: int, models: list[ServedModel]) -> None:
        """Take note that one more device is warm; the server is ready when all are."""
        self._warm[number] = models
        if len(self._warm) == len(self._devices):
            try:
                self._become_ready([self._warm[each] for each in sorted(self._warm)])
            except ModelError as error:
                self._become_failed(error)

    def _become_ready(self, devices: Sequence[Sequence[ServedModel]]) -> None:
        """Serve what every device has loaded, each a list of its own."""
        for copies in zip(*devices, strict=True):
            check_alike(copies)
            self.catalog.add(copies[0])
        for model in (model for models in devices for model in models):
            self.metrics.model_info.labels(
                model.name,
                model.fingerprint,
                str(model.trained).lower(),
                model.compute_dtype,
                model.engine,
                model.device,
            ).set(1)
        for model, fingerprint in self.catalog.known():
            (dimensions,) = model.outputs["embedding"].shape
            self.metrics.embeddings.watch(model.name, fingerprint, dimensions)
        self._set_states(ModelState.READY)
        self._ready.set_result(None)

    def _become_failed(self, error: BaseException) -> None:
        mistake = isinstance(error, ModelError)  # the operator's: a traceback would hide what it says
        self._logger.error("the device thread ended: %s", error, exc_info=None if mistake else error)
        self._set_states(ModelState.FAILED)
        self._batcher.abandon()
        self.failed.set_result(error)

    def _set_states(self, state: ModelState) -> None:
        self.catalog.set_states(state)
        self.health.publish()


def check_alike(copies: Sequence[ServedModel]) -> None:
    """Check that a model has one fingerprint on all devices, as callers cannot tell by which one they are answered.

    Raises:
        ModelError: it has several.
    """
    if len({model.fingerprint for model in copies}) > 1:
        ways = dict.fromkeys(f"{model.engine} {model.compute_dtype} on {model.device}" for model in copies)
        raise ModelError(
            f"model {copies[0].name!r} would be served under several fingerprints: {', '.join(ways)}; "
            "name an engine and a dtype that all devices have, such as --engine folded --dtype float32, or serve "
            "each kind of device by a server of its own"
        )


def engine_options(settings: Settings, device: str, cores: int) -> EngineOptions:
    """Return the part of the settings that concerns the engine of one device, which may use so many cores."""
    return EngineOptions(
        device=device,
        threads=settings.threads or max(1, cores),
        max_batch=settings.max_batch,
        engine=settings.engine,
        dtype=settings.dtype,
        bounds=Bounds(settings.min_cosine_mean, settings.min_cosine_worst),
        invariant=settings.invariant,
        memory_fraction=settings.max_device_memory_fraction,
        max_model_bytes=settings.max_model_memory_bytes,
        cache=settings.cache_dir,
    )
