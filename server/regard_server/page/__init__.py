"""The page on the metrics port, for people without Grafana: what the server does now, and a form to try it with.

    metrics ─→ reading ─→ watch: history ─┐
                                          ├─→ figures ─→ site ─→ static/ in a browser
    photograph ─→ guard, pace ─→ pipeline ┘

It lives in threads of the metrics port's own (`observe.py`) and asks the event loop only for photographs.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from importlib.metadata import version

from regard_server.catalog import Catalog
from regard_server.images import ImageLimits
from regard_server.metrics import Metrics
from regard_server.page.history import Reading
from regard_server.page.pace import Pace
from regard_server.page.photograph import Looker
from regard_server.page.reading import read
from regard_server.page.site import Page
from regard_server.page.watch import Watch
from regard_server.pipeline import Pipeline
from regard_server.settings import Settings, is_local

__all__ = ["Page", "has_form", "make_page"]

# For people: two photographs at a time, two a second in the long run, six in a row.
_RATE, _BURST, _AT_ONCE = 2.0, 6, 2


def has_form(settings: Settings) -> bool:
    """Return whether photographs are taken.

    By itself only where nobody but this machine reaches the page, and where gRPC does not ask its callers who they
    are: the page cannot.
    """
    if settings.page_form == "auto":
        asks = settings.tokens_file or settings.tls_client_authority
        return is_local(settings.metrics_address) and not asks
    return settings.page_form == "on"


def make_page(
    settings: Settings,
    *,
    metrics: Metrics,
    catalog: Catalog,
    pipeline: Pipeline,
    limits: ImageLimits,
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[], bool],
    queue_depth: Callable[[], int],
    in_flight: Callable[[], int],
    logger: logging.Logger,
) -> Page:
    """Put the page together; `start` it when the metrics port is bound."""

    def reading() -> Reading:
        return read(
            metrics, at_s=time.monotonic(), wall_s=time.time(), queue_depth=queue_depth, in_flight=in_flight
        )

    return Page(
        watch=Watch(reading, logger),
        catalog=catalog,
        looker=Looker(pipeline=pipeline, catalog=catalog, limits=limits, clock=time.monotonic)
        if has_form(settings)
        else None,
        loop=loop,
        pace=Pace(rate=_RATE, burst=_BURST, at_once=_AT_ONCE, clock=time.monotonic),
        ready=ready,
        hosts=settings.page_hosts,
        max_bytes=settings.max_image_bytes,
        version=version("regard"),
        logger=logger,
    )
