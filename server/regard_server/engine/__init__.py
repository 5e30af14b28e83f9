"""Run: networks on one device. Only this room and the models know torch."""

from regard_server.engine.engine import Engine
from regard_server.engine.mode import Mode
from regard_server.engine.options import Bounds, EngineOptions

__all__ = ["Bounds", "Engine", "EngineOptions", "Mode"]
