"""Memory: what its want looks like.

CUDA's allocator has an error of its own. On the CPU torch, OpenVINO and numpy say it each in their way.
"""

import torch

# Parts of messages, in small letters.
_SAID = (
    "can't allocate memory",  # torch's allocator of the CPU
    "could not create a ",  # oneDNN, below torch, with no reason given; what ran at warm-up lacks nothing else
    "bad_alloc",  # C++, by way of OpenVINO
    "out of memory",
    "_alloc_failed",  # cuDNN and cuBLAS
)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory was short, of the device or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in said for part in _SAID)
