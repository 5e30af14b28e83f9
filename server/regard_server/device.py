"""The device's thread: it alone loads, warms up and runs the networks.

start ─→ load every model ─→ warm up ─→ ready ─→ batches until the batcher closes ─→ stopped
└──────────────┴─→ failed ←───────────┘ (a bug: run errors stay in their batch)
"""

import logging
import threading
from collections.abc import Callable, Sequence

from regard_models import load_bundle
from regard_server.batcher import Batcher
from regard_server.catalog import ServedModel
from regard_server.engine import Engine
from regard_server.precedence import give_way


class DeviceThread:
    """One thread for one device.

    Args:
        number: which of the server's devices it is.
        engine: makes what runs the networks; touched by this thread, and in `run` by its further lanes.
        sources: (name, source) of every model, as `load_bundle` takes them.
        seed: of weights that no file gives.
        batcher: where the work is.
        on_ready: called in this thread with the models' descriptions, once they are warm.
        on_failure: called in this thread with what ended it.
        logger: where progress is logged.
        nicer: how much the thread, and those that compute for it, give way to others where the device is the CPU.
    """

    def __init__(
        self,
        *,
        number: int = 0,
        engine: Callable[[], Engine],
        sources: Sequence[tuple[str, str]],
        seed: int,
        batcher: Batcher,
        on_ready: Callable[[list[ServedModel]], None],
        on_failure: Callable[[BaseException], None],
        logger: logging.Logger,
        nicer: int = 0,
    ) -> None:
        self._number = number
        self._make_engine = engine
        self._sources = sources
        self._seed = seed
        self._batcher = batcher
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._logger = logger
        self._nicer = nicer
        self._thread = threading.Thread(target=self._work, name=f"device-{number}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread ends; return whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            engine = self._make_engine()
            if engine.on_cpu:  # a GPU that waited for its thread would idle
                self._give_way()
            self._on_ready(self._load(engine))
            others = [
                threading.Thread(target=self._serve, args=(engine,), name=f"device-{self._number}-{lane}")
                for lane in range(1, engine.lanes)
            ]
            for other in others:
                other.start()
            self._serve(engine)
            for other in others:
                other.join()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the owner must hear of it
            self._on_failure(error)

    def _give_way(self) -> None:
        try:
            give_way(self._nicer)
        except OSError as error:
            self._logger.warning("networks are as urgent as those who answer: %s", error.strerror)

    def _serve(self, engine: Engine) -> None:
        try:
            self._batcher.serve(engine.run, self._number)
        except BaseException as error:  # noqa: BLE001 - likewise
            self._on_failure(error)

    def _load(self, engine: Engine) -> list[ServedModel]:
        served = []
        for name, source in self._sources:
            model = engine.load(load_bundle(source, name=name, seed=self._seed))
            self._logger.info(
                "loaded %s: %.1f M parameters, %s %s on %s, weights: %s",
                model.name,
                model.parameters / 1e6,
                model.engine,
                model.compute_dtype,
                model.device,
                model.weights,
            )
            if not model.trained:
                self._logger.warning("%s is untrained: its vectors mean little", model.name)
            served.append(model)
        for key, size, seconds in engine.warm_up():
            self._batcher.learn(key, size, seconds)
        return served
