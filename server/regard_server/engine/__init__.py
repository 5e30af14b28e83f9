"""Run: networks on one device. Only this room and the models know torch."""

from regard_server.engine.engine import Engine, EngineOptions
from regard_server.engine.mode import Mode

__all__ = ["Engine", "EngineOptions", "Mode"]
