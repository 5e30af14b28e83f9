"""Files that hold secrets, and whether they have changed since they were read."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

# A file that was written so shortly before it was read may be written again without its time changing: kernels
# keep it to a few milliseconds.
_TICK_NS = 50_000_000

_Signature = tuple[tuple[int, int, int, int], ...]


class UnusableFileError(OSError):
    """A file that cannot serve its purpose; the message says why, and never what is in it."""


class WatchedFiles:
    """Reads files together, and tells when they should be read again. Cheap to ask: one `stat` a file.

    Args:
        paths: which files; links are followed, so that those of mounted secrets may be swapped.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._seen: _Signature | None = None

    def changed(self) -> bool:
        """Tell whether any file is another than when `read` was called, whatever became of that."""
        return self._seen is None or self._signature() != self._seen

    def read(self) -> list[bytes]:
        """Return the contents.

        Raises:
            UnusableFileError: a file cannot be read.
        """
        before = self._signature()
        just_now = time.time_ns() - _TICK_NS
        self._seen = None if any(changed > just_now for changed, *_ in before) else before
        contents = []
        for path in self._paths:
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise UnusableFileError(f"cannot read {path}: {error.strerror}") from error
        return contents

    def _signature(self) -> _Signature:
        return tuple(_look(path) for path in self._paths)


def _look(path: Path) -> tuple[int, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - a third of the time of Path.stat, at every call
    except OSError as error:
        return (0, 0, 0, error.errno or 0)
    return (found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino)
