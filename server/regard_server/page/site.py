"""The page's paths, as a WSGI application; it is mounted on the metrics port (see `observe.py`).

/                    the page
/page/FILE           what it is made of
/page/live.json      figures; ?since=SECONDS: only the points after that time
/page/samples/FILE   the sample photographs
/page/look           POST a photograph; ?model=NAME&map=NAME, both optional
"""

import asyncio
import concurrent.futures
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from regard_server.catalog import Catalog
from regard_server.errors import InternalError, RegardError, UnavailableError
from regard_server.page import figures
from regard_server.page.guard import HEADERS, is_own_request, is_trusted_host
from regard_server.page.pace import Pace, TooFastError
from regard_server.page.photograph import TIMEOUT_S, Looker, samples_by_name
from regard_server.page.watch import Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
    ".md": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}
_STATUSES: Final = {
    "INVALID_ARGUMENT": "400 Bad Request",
    "NOT_FOUND": "404 Not Found",
    "RESOURCE_EXHAUSTED": "503 Service Unavailable",
    "UNAVAILABLE": "503 Service Unavailable",
    "DEADLINE_EXCEEDED": "504 Gateway Timeout",
}
_PHOTOGRAPH_TYPES: Final = ("image/", "application/octet-stream")
_MAX_NAME: Final = 200


class _Refusal(Exception):  # noqa: N818 - an answer like any other
    def __init__(self, status: str, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class Page:
    """Answers the page's requests, in the threads of whoever calls it.

    Args:
        watch: the figures.
        catalog: the models.
        looker: looks at photographs; None: the form is off.
        loop: the event loop that `looker` runs on.
        pace: how often it may.
        ready: whether requests are taken.
        hosts: names by which the page may be opened, besides addresses and localhost.
        max_bytes: of a photograph.
        version: of regard.
        logger: one line a photograph.
    """

    def __init__(
        self,
        *,
        watch: Watch,
        catalog: Catalog,
        looker: Looker | None,
        loop: asyncio.AbstractEventLoop,
        pace: Pace,
        ready: Callable[[], bool],
        hosts: Collection[str],
        max_bytes: int,
        version: str,
        logger: logging.Logger,
    ) -> None:
        self._watch = watch
        self._catalog = catalog
        self._looker = looker
        self._loop = loop
        self._pace = pace
        self._ready = ready
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_bytes = max_bytes
        self._version = version
        self._logger = logger
        self._began_s = time.time()
        self._files = {
            path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.is_file()
        }

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        try:
            status, headers, body = "200 OK", *self._answer(environ)
        except _Refusal as refusal:
            status, headers = refusal.status, [*refusal.headers, ("Content-Type", _TYPES[""])]
            body = f"{refusal}\n".encode()
            if environ["REQUEST_METHOD"] == "POST":
                headers, body = [*refusal.headers, *_JSON], _json({"error": str(refusal)})
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = [*headers, *HEADERS, ("Content-Length", str(len(body)))]
        if ("Cache-Control", "no-cache") in headers:
            headers.append(("ETag", tag))
            if environ.get("HTTP_IF_NONE_MATCH") == tag:
                status, body = "304 Not Modified", b""
                headers = [header for header in headers if not header[0].startswith("Content-Length")]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: "WSGIEnvironment") -> tuple[list[tuple[str, str]], bytes]:
        host, path = environ.get("HTTP_HOST", ""), environ.get("PATH_INFO", "/")
        if not is_trusted_host(host, self._hosts):
            raise _Refusal(
                "421 Misdirected Request",
                "this page answers to addresses and to localhost; to open it by another name, set page_hosts",
            )
        method = environ["REQUEST_METHOD"]
        if path == "/page/look":
            return _JSON, self._look(environ)
        if method not in {"GET", "HEAD"}:
            raise _Refusal("405 Method Not Allowed", "expected GET", ("Allow", "GET, HEAD"))
        query = parse_qs(environ.get("QUERY_STRING", "")[:_MAX_NAME])
        if path == "/page/live.json":
            return _JSON, _json(self._live(query))
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        file = self._files.get(name) or _samples().get(name.removeprefix("samples/"))
        if file is None or not (path == "/" or path.startswith("/page/")):
            raise _Refusal("404 Not Found", "not found: there is /, /metrics, /livez and /readyz")
        return [("Content-Type", _TYPES[file.suffix]), ("Cache-Control", "no-cache")], _bytes_of(file)

    def _live(self, query: dict[str, list[str]]) -> dict[str, Any]:
        try:
            since_s = float(query.get("since", ["0"])[0])
        except ValueError as error:
            raise _Refusal("400 Bad Request", "since: expected seconds since 1970") from error
        points, reading, summary = self._watch.since(since_s)
        return {
            "version": self._version,
            "began": round(self._began_s, 3),
            "now": round(time.time(), 3),
            "ready": self._ready(),
            "form": self._looker is not None,
            "max_bytes": self._max_bytes,
            "points": figures.chart_columns(points),
            "models": figures.models(self._catalog, summary),
            **figures.tables(reading, summary),
        }

    def _look(self, environ: "WSGIEnvironment") -> bytes:
        query = self._check_look(environ)
        if self._looker is None:
            raise _Refusal("403 Forbidden", 'the form is switched off; page_form = "on" switches it on')
        if not self._ready():
            raise _Refusal("503 Service Unavailable", "the server is not ready", ("Retry-After", "1"))
        began_s = time.perf_counter()
        outcome = "OK"
        try:
            with self._pace.turn():
                data = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                return self._look_at(self._looker, data, query)
        except TooFastError as error:
            outcome = "TOO_FAST"
            retry = ("Retry-After", f"{error.retry_after_s:.0f}")
            raise _Refusal("429 Too Many Requests", str(error), retry) from error
        except RegardError as error:
            outcome = error.reason
            raise _refuse(error) from error
        finally:
            level = logging.DEBUG if outcome == "OK" else logging.INFO
            elapsed_ms = (time.perf_counter() - began_s) * 1000
            self._logger.log(level, "page photograph %s in %.1f ms", outcome, elapsed_ms)

    def _look_at(self, looker: Looker, data: bytes, query: dict[str, list[str]]) -> bytes:
        model, shown = (query.get(name, [""])[0] for name in ("model", "map"))
        try:
            asked = asyncio.run_coroutine_threadsafe(looker.look(data, model, shown), self._loop)
        except RuntimeError as error:
            raise UnavailableError("the server is shutting down") from error
        try:
            # Twice: the samples may have to be looked at first. The deadlines inside end it; this is for a loop that
            # died.
            return _json(figures.looked(asked.result(2 * TIMEOUT_S + 1)))
        except (TimeoutError, concurrent.futures.CancelledError) as error:
            asked.cancel()
            raise UnavailableError("the server did not answer") from error
        except RegardError:
            raise
        except Exception as error:
            self._logger.exception("a bug in the page")
            raise InternalError("internal error; the server's log says why") from error

    def _check_look(self, environ: "WSGIEnvironment") -> dict[str, list[str]]:
        """Refuse what is no photograph of the page's own sending; return the query."""
        if environ["REQUEST_METHOD"] != "POST":
            raise _Refusal("405 Method Not Allowed", "expected POST", ("Allow", "POST"))
        origin, site = environ.get("HTTP_ORIGIN", ""), environ.get("HTTP_SEC_FETCH_SITE", "")
        if not is_own_request(environ.get("HTTP_HOST", ""), origin, site):
            raise _Refusal("403 Forbidden", "photographs are taken from this page only; programs use gRPC")
        if not environ.get("CONTENT_TYPE", "").startswith(_PHOTOGRAPH_TYPES):
            raise _Refusal("415 Unsupported Media Type", "expected a photograph as the body, as image/…")
        length = environ.get("CONTENT_LENGTH", "")
        if not length.isdigit():
            raise _Refusal("411 Length Required", "expected a Content-Length")
        if int(length) > self._max_bytes:
            raise _Refusal("413 Content Too Large", f"the photograph has more than {self._max_bytes} bytes")
        return parse_qs(environ.get("QUERY_STRING", "")[: 2 * _MAX_NAME])


_JSON: Final = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


def _json(values: object) -> bytes:
    return json.dumps(values, allow_nan=False, separators=(",", ":")).encode()


def _refuse(error: RegardError) -> _Refusal:
    retry = () if error.retry_after_s is None else (("Retry-After", f"{max(1.0, error.retry_after_s):.0f}"),)
    return _Refusal(_STATUSES.get(error.code.name, "500 Internal Server Error"), error.message, *retry)


@cache
def _samples() -> dict[str, Path]:
    found = samples_by_name()
    return {**found, "ATTRIBUTION.md": next(iter(found.values())).with_name("ATTRIBUTION.md")}


@cache
def _bytes_of(file: Path) -> bytes:
    return file.read_bytes()
