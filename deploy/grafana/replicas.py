"""One replica beside the others: is the load even, and is one of them different."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import Panel, Query, board, fill, graph, of, rate

REPLICA = 'instance=~"$instance"'


def each(metric: str, *matchers: str) -> Query:
    """A gauge by replica."""
    return f"sum by (instance) ({of(metric, REPLICA, *matchers)})", "{{instance}}"


def pace(metric: str, *matchers: str) -> Query:
    """What a counter grows by in a second, by replica."""
    return f"sum by (instance) ({rate(metric, REPLICA, *matchers)})", "{{instance}}"


def state() -> list[Panel]:
    """Are they there."""
    started = of("process_start_time_seconds", REPLICA)
    return [
        graph("Ready", "bool", each("regard_ready"), about="1 while a replica takes requests.", most=1),
        graph("Reached", "bool", each("up"), about="1 while Prometheus can scrape it.", most=1),
        graph(
            "Age",
            "s",
            (f"sum by (instance) (time() - {started})", "{{instance}}"),
            about="Seconds since it started.",
        ),
        graph("Scrape", "s", each("scrape_duration_seconds"), about="How long a scrape takes."),
    ]


def load() -> list[Panel]:
    """What each does."""
    items = pace("regard_items_total")[0]
    average = f"avg(sum by (instance) ({rate('regard_items_total')})) > 0"
    buckets = rate("regard_request_duration_seconds_bucket", REPLICA, 'method="Extract"')
    return [
        graph(
            "Images answered in time",
            "none",
            pace("regard_items_total", 'outcome="ok"'),
            about="Images a second.",
            stacked=True,
        ),
        graph(
            "Share of the even load",
            "percentunit",
            (f"{items} / ignoring (instance) group_left () ({average})", "{{instance}}"),
            about="100 %: as much as the average. Least-request balancing keeps slower replicas below.",
        ),
        graph(
            "Calls that failed by our fault",
            "reqps",
            pace("regard_requests_total", 'code=~"INTERNAL|UNAVAILABLE"'),
            about="Calls a second.",
            stacked=True,
        ),
        graph(
            "Refused or late",
            "none",
            pace("regard_items_total", 'outcome=~"shed|late"'),
            about="Images a second.",
            stacked=True,
        ),
        graph(
            "Extract calls, p99",
            "s",
            (f"histogram_quantile(0.99, sum by (le, instance) ({buckets}))", "{{instance}}"),
            about="One call in a hundred takes longer.",
        ),
        graph("Waiting for a device", "none", each("regard_queue_depth"), about="Images."),
        graph("Images in flight", "none", each("regard_in_flight_images"), about="Images inside."),
        graph("Bytes in flight", "bytes", each("regard_in_flight_bytes"), about="Image data inside."),
    ]


def means() -> list[Panel]:
    """What each uses."""
    busy = rate("regard_device_busy_seconds_total", REPLICA)
    collections = rate("python_gc_collections_total", REPLICA)
    files = f"{of('process_open_fds', REPLICA)} / {of('process_max_fds', REPLICA)}"
    return [
        graph(
            "Device busy",
            "percentunit",
            (f"sum by (instance, device) ({busy})", "{{instance}} {{device}}"),
            about="Share of the time in which the device had a batch to run.",
        ),
        graph("Processor", "none", pace("process_cpu_seconds_total"), about="Cores in use."),
        graph("Memory", "bytes", each("process_resident_memory_bytes"), about="Resident memory."),
        graph("Remembered outputs", "bytes", each("regard_cache_bytes"), about="The cache's bytes."),
        graph(
            "Open files",
            "percentunit",
            (f"sum by (instance) ({files})", "{{instance}}"),
            about="Connections are files, too.",
        ),
        graph(
            "Garbage collections",
            "ops",
            (f"sum by (instance, generation) ({collections})", "{{instance}} {{generation}}"),
            about="Of Python's cyclic collector; generation 2 stops the event loop the longest.",
        ),
        graph(
            "GPU memory",
            "bytes",
            (
                f"sum by (instance, device) ({of('regard_device_memory_used_bytes', REPLICA)})",
                "{{instance}} {{device}}",
            ),
            about="Taken, by whomever.",
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    about = "Is the load even, and is one replica different from the others."
    made = board("replicas", "regard: replicas", about, "instance")
    return fill(made, {"State": state(), "Load": load(), "Means": means()})
