"""Logs: one line an event, with the id of the request it belongs to, as text or JSON."""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Literal

from regard_server.libtiff import silence_libtiff
from regard_server.request_id import current_request_id


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        request_id = current_request_id()
        return f"{line} request={request_id}" if request_id else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := current_request_id():
            event["request_id"] = request_id
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, ensure_ascii=False)


def _is_no_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def configure_logging(level: str, form: Literal["text", "json"]) -> logging.Logger:
    """Send the program's logs to standard error and return the server's logger."""
    handler = logging.StreamHandler(sys.stderr)
    text = _TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    # Pillow warns of odd metadata in words of the picture's own: callers could write the log, and fill the memory in
    # which Python remembers what it has warned of.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    silence_libtiff()
    # gRPC shows metadata that are no text, tokens among them, with a traceback for each.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_metadata)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger = logging.getLogger("regard")
    logger.setLevel(level.upper())
    return logger
