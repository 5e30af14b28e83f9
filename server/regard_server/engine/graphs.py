"""Traced graphs, kept in a folder from one start to the next.

Tracing takes about two seconds, reading a graph back a tenth of one. A graph belongs to the weights and versions that
it was made from; with any other it is never read again, and of ResNet-50 it takes 100 MB. So reading one marks it as
used, and keeping a new one removes those that have not been used for longest, down to a number of bytes.

    <hash>.xml     the layers     written last: who sees it may read both
    <hash>.bin     the weights
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 2_000_000_000


class TracedGraphs:
    """Files of graphs, by what they were made from. Several servers may share the folder.

    Args:
        folder: made when the first graph is kept.
        limit_bytes: what the graphs may take together; the newest stays even where it alone takes more.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def find(self, *made_from: str) -> Path | None:
        """Return the path of a graph's layers and mark it as used; None where there is none."""
        layers = self._layers(made_from)
        weights = layers.with_suffix(".bin")
        if not (layers.is_file() and weights.is_file()):
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written: used, and not marked
            os.utime(weights)
        return layers

    def keep(self, save: Callable[[Path], None], *made_from: str) -> Path:
        """Keep a graph, and return the path of its layers.

        Args:
            save: writes a graph's layers to a path, and its weights beside them.
            made_from: what it was made from.

        Raises:
            OSError: the folder cannot be written.
            Exception: what `save` raises; nothing is kept then.
        """
        layers = self._layers(made_from)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = layers.with_name(f"{layers.stem}.{os.getpid()}.xml")
        try:
            save(partial)
            partial.with_suffix(".bin").replace(layers.with_suffix(".bin"))
            partial.replace(layers)
        finally:
            _remove(partial)
        self._tidy(layers)
        return layers

    def _layers(self, made_from: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        return self._folder / f"{digest[:32]}.xml"

    def _tidy(self, newest: Path) -> None:
        """Remove what has not been used for longest. A server that has read a graph does not need its files again."""
        used: list[tuple[float, int, Path]] = []
        for weights in self._folder.glob("*.bin"):
            with contextlib.suppress(FileNotFoundError):  # another server tidies too
                status = weights.stat()
                used.append((status.st_mtime, status.st_size, weights.with_suffix(".xml")))
        total = sum(size for _, size, _ in used)
        for _, size, layers in sorted(used):
            if total <= self._limit_bytes:
                break
            if layers != newest:
                _remove(layers)
                total -= size


def _remove(layers: Path) -> None:
    """Remove a graph, its layers first, so that nobody finds half of it."""
    layers.unlink(missing_ok=True)
    layers.with_suffix(".bin").unlink(missing_ok=True)
