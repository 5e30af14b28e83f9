"""The operator's port: metrics, two probes and a page for people, over plain HTTP.

/metrics   Prometheus text format
/livez     200 while the device thread lives, 503 after
/readyz    200 while requests are taken, 503 before warm-up, while draining and after a failure
/          the page (see `page/`), where it is switched on

Waitress serves it: one thread moves bytes, a few answer whole requests, so that slow or silent clients hold neither
a thread nor the hot path, and a scrape is answered whatever the event loop does. (It adds 4 ms and 0.3 MiB to the
server's start; uvicorn 27 ms and 3.5 MiB, aiohttp 107 ms and 13.4 MiB, measured on one core of 2024.)
"""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from waitress import wasyncore
from waitress.server import create_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# How long somebody who is connected may be silent.
SILENCE_S = 10.0
# A scraper, two probes and a viewer are answered while two photographs (see `page/`) are being looked at.
_THREADS = 6
_MAX_CONNECTIONS = 128
_MAX_HEADER_BYTES = 16 << 10
# Of a request that should have no body.
_MAX_BODY_BYTES = 1 << 10


class ObservationPort:
    """An HTTP server in threads of its own.

    Args:
        address: host:port; port 0 is any free one.
        registry: what /metrics shows.
        live: whether the process should go on.
        ready: whether it should be sent requests.
        page: what answers all other paths; None: nobody.
        max_body_bytes: of a request to the page.
        silence_s: how long somebody who is connected may be silent.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        *,
        live: Callable[[], bool],
        ready: Callable[[], bool],
        page: "WSGIApplication | None" = None,
        max_body_bytes: int = _MAX_BODY_BYTES,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._address = address
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/livez": live, "/readyz": ready}
        self._page = page
        self._max_body_bytes = max(max_body_bytes, _MAX_BODY_BYTES)
        self._silence_s = silence_s
        self._server: Any = None  # waitress' stubs know neither its trigger nor its port
        self._sockets: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Bind, serve, and return the address in use.

        Raises:
            OSError: the address cannot be bound.
        """
        host, _, port = self._address.rpartition(":")
        # Bound here: waitress would listen on everything that a name stands for, each on a port of its own.
        listening = _bind(host.strip("[]"), int(port))
        self._server = create_server(  # type: ignore[call-overload,unused-ignore]
            self._respond,
            map=self._sockets,
            sockets=[listening],
            threads=_THREADS,
            connection_limit=_MAX_CONNECTIONS,
            channel_timeout=self._silence_s,
            cleanup_interval=min(self._silence_s, 5.0),
            max_request_header_size=_MAX_HEADER_BYTES,
            max_request_body_size=self._max_body_bytes,
            asyncore_use_poll=True,  # select cannot hold sockets numbered above 1023, and gRPC opens many
            clear_untrusted_proxy_headers=True,
            ident=None,
        )
        self._thread = threading.Thread(target=self._server.run, name="observe", daemon=True)
        self._thread.start()
        return f"{host}:{self._server.effective_port}"

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._server and self._thread:
            self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._sockets))  # in its own thread
            self._thread.join()
            self._server.task_dispatcher.shutdown()
            self._server = None

    def _respond(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        probe = self._probes.get(path)
        if probe is None and self._page is not None:
            return self._page(environ, start_response)
        status, text = ("404 Not Found", "not found: there is /metrics, /livez and /readyz")
        if probe is not None:
            status, text = ("200 OK", "ok") if probe() else ("503 Service Unavailable", "not now")
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
