"""Traced graphs, kept in a folder from one start to the next.

Tracing takes about two seconds, reading a graph back a tenth of one. A graph belongs to the weights and versions that
it was made from; with any other it is never read again, and of ResNet-50 it takes 100 MB. So reading one marks it as
used, and keeping a new one removes those that have not been used for longest, down to a number of bytes.

    <hash of what it was made from>.graph     SHA-256 of the rest, length of the layers, layers, weights

One file, that comes to its name when it is whole, and is read into memory and not mapped: whatever others do to it
later, a graph that was read stays as it was, and one that was damaged is not used.
"""

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

LIMIT_BYTES = 2_000_000_000
_SUFFIX = ".graph"
_HEAD = struct.Struct("<32sQ")
# What is being written has a folder of its own; what is left of one that was killed goes after so long.
_WRITING = "writing-"
_LONG_AGO_S = 3600.0


class Graph(NamedTuple):
    """OpenVINO's two parts of a graph: layers as XML, and the bytes of their weights."""

    layers: bytes
    weights: bytes


class DamagedGraphError(Exception):
    """What lies at a graph's place is not what was kept there."""


class TracedGraphs:
    """Files of graphs, by what they were made from. Several servers may share the folder.

    Args:
        folder: made when the first graph is kept.
        limit_bytes: what the graphs may take together; the newest stays even where it alone takes more.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes

    def find(self, *made_from: str) -> Graph | None:
        """Return a graph and mark it as used; None where there is none.

        Raises:
            DamagedGraphError: it is not whole.
            OSError: it cannot be read.
        """
        path = self._path(made_from)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        graph = _unpack(data, path)
        with contextlib.suppress(OSError):  # a folder that cannot be written: used, and not marked
            os.utime(path)
        return graph

    def keep(self, save: Callable[[Path], None], *made_from: str) -> Graph:
        """Keep a graph, and return it.

        Args:
            save: writes a graph's layers to a path that ends in .xml, and its weights beside them.
            made_from: what it was made from.

        Raises:
            OSError: the folder cannot be written.
            Exception: what `save` raises; nothing is kept then.
        """
        path = self._path(made_from)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_WRITING, dir=self._folder) as scratch:
            saved = Path(scratch) / "graph.xml"
            save(saved)
            graph = Graph(saved.read_bytes(), saved.with_suffix(".bin").read_bytes())
            whole = saved.with_suffix(_SUFFIX)
            with whole.open("wb") as file:
                file.write(_HEAD.pack(_digest(graph), len(graph.layers)))
                file.writelines(graph)
            whole.replace(path)
        self._tidy(path)
        return graph

    def _path(self, made_from: tuple[str, ...]) -> Path:
        return self._folder / f"{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]}{_SUFFIX}"

    def _tidy(self, newest: Path) -> None:
        """Remove what has not been used for longest, and what was never finished."""
        for scratch in self._folder.glob(f"{_WRITING}*"):
            with contextlib.suppress(OSError):  # another server tidies too, or owns it
                if time.time() - scratch.stat().st_mtime > _LONG_AGO_S:
                    shutil.rmtree(scratch, ignore_errors=True)
        used: list[tuple[float, int, Path]] = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                used.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in used)
        for _, size, path in sorted(used):
            if total <= self._limit_bytes:
                break
            if path != newest:
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size


def _digest(graph: Graph) -> bytes:
    digest = hashlib.sha256(len(graph.layers).to_bytes(8, "little"))
    for part in graph:
        digest.update(part)
    return digest.digest()


def _unpack(data: bytes, path: Path) -> Graph:
    if len(data) >= _HEAD.size:
        kept, length = _HEAD.unpack_from(data)
        graph = Graph(data[_HEAD.size : _HEAD.size + length], data[_HEAD.size + length :])
        if _digest(graph) == kept:
            return graph
    raise DamagedGraphError(f"{path} is not as it was written")
