"""What a device says of itself: its memory, and how busy it is."""

import importlib.util
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One look at a device.

    Attributes:
        memory_bytes: what it has.
        memory_used_bytes: what is taken of it, by whomever.
        utilization: share of the last moments in which it computed, 0 to 1; None where the driver's library is not
            installed, or the device does not say (a slice of one does not).
    """

    memory_bytes: int
    memory_used_bytes: int
    utilization: float | None


def device_kind(device: torch.device) -> str:
    """Return what a device has in common with others that are as fast: a GPU's name, a slice's size in it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def read_device(name: str) -> DeviceReading | None:
    """Ask a device by the name that torch gives it.

    None for the CPU, whose memory is the machine's, and for a device that has failed: everything else must still be
    scraped then.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        return None
    return DeviceReading(total, total - free, _utilization(device))


def _utilization(device: torch.device) -> float | None:
    if importlib.util.find_spec("pynvml") is None:
        return None
    from pynvml import NVMLError  # noqa: PLC0415 - nvidia-ml-py comes with some installations only

    try:
        return torch.cuda.utilization(device) / 100
    except (NVMLError, RuntimeError):
        return None
