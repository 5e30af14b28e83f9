"""libtiff, kept from writing to standard error: it tells of damaged pictures there, in the middle of our log.

Pillow leaves its message handlers as they are and raises an error of its own besides, which says enough.
"""

import ctypes
from pathlib import Path

from PIL import _imaging as _loads_libtiff  # noqa: F401

_MAPS = Path("/proc/self/maps")
_HANDLERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_libtiff() -> bool:
    """Take the handlers away from the library that Pillow has loaded; return False where it is not found."""
    try:
        mapped = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines()}
    except OSError:
        return False
    near = [path for path in mapped if Path(path).name.startswith("libtiff") and ".so" in path]
    loaded = [ctypes.CDLL(path) for path in near]  # those that are there already
    found = [each for each in loaded if hasattr(each, _HANDLERS[0])]  # not another's plugin around it
    for library in found:
        for handler in _HANDLERS:
            getattr(library, handler)(None)
    return bool(found)
