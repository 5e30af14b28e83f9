"""The operator's port: metrics and two probes, over plain HTTP.

/metrics   Prometheus text format
/livez     200 while the device thread lives, 503 after
/readyz    200 while requests are taken, 503 before warm-up, while draining and after a failure
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

# How long somebody who is connected may be silent.
SILENCE_S = 10.0

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of those who hang up or say nothing themselves."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = SILENCE_S  # else whoever connects and says nothing keeps a thread for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing: a scrape every few seconds is not news."""


class ObservationPort:
    """An HTTP server in a thread of its own, so that a scrape is answered whatever the event loop does."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        *,
        live: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        self._address = address
        self._metrics: Application = make_wsgi_app(registry)
        self._probes = {"/livez": live, "/readyz": ready}
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Bind, serve, and return the address in use."""
        host, _, port = self._address.rpartition(":")
        kind = _Server6 if host.startswith("[") else _Server
        self._server = make_server(host.strip("[]"), int(port), self._respond, kind, _QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="observe", daemon=True)
        self._thread.start()
        return f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _respond(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return self._metrics(environ, start_response)
        probe = self._probes.get(path)
        status, text = ("404 Not Found", "not found: there is /metrics, /livez and /readyz")
        if probe is not None:
            status, text = ("200 OK", "ok") if probe() else ("503 Service Unavailable", "not now")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
