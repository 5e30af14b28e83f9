"""Run: networks on one device. Only this room and the models know torch."""

from regard_server.engine.engine import Engine
from regard_server.engine.mode import Mode
from regard_server.engine.options import Bounds, EngineOptions
from regard_server.engine.profile import Profiles
from regard_server.engine.reading import DeviceReading, read_device

__all__ = ["Bounds", "DeviceReading", "Engine", "EngineOptions", "Mode", "Profiles", "read_device"]
