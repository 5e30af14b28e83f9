"""Is it well, how fast is it, how much does it do, and how much more could it."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import Panel, board, density, figure, fill, graph, of, rate, share

PERCENTILES = {"0.5": "p50", "0.9": "p90", "0.99": "p99", "0.999": "p99.9"}
STAGES = ("decode", "queue", "compute")
OURS = 'code=~"INTERNAL|UNAVAILABLE"'


def calls(*matchers: str) -> str:
    """Calls a second."""
    return f"sum({rate('regard_requests_total', *matchers)})"


def images(outcomes: str = ".*") -> str:
    """Images a second that ended so."""
    matcher = f'outcome=~"{outcomes}"'
    return f"sum({rate('regard_items_total', matcher)})"


def seconds(quantile: str, name: str, *matchers: str) -> str:
    """What so large a part of durations stays below."""
    buckets = rate(f"regard_{name}_duration_seconds_bucket", *matchers)
    return f"histogram_quantile({quantile}, sum by (le) ({buckets}))"


def extract(quantile: str) -> str:
    """What so large a part of Extract calls stays below."""
    return seconds(quantile, "request", 'method="Extract"')


def grown(buckets: str, *matchers: str) -> str:
    """How many observations came into each bucket."""
    return f"sum by (le) (increase({of(buckets, *matchers)}[$__rate_interval]))"


def now() -> list[Panel]:
    """One line of figures."""
    return [
        figure(
            "Replicas ready", "none", 'sum(regard_ready{job="$job"})', about="Replicas that take requests."
        ),
        figure(
            "Alerts",
            "none",
            'count(ALERTS{alertname=~"Regard.*",alertstate="firing"}) or vector(0)',
            about="Alerts that fire; deploy/RUNBOOK.md says what to do.",
            alarm=1,
        ),
        figure("Goodput", "none", images("ok"), about="Images answered in time, a second."),
        figure("Calls", "reqps", calls(), about="Calls a second."),
        figure(
            "p99",
            "s",
            extract("0.99"),
            about="One Extract call in a hundred takes longer.",
            warn=0.5,
            alarm=1,
        ),
        figure(
            "Errors",
            "percentunit",
            share(calls(OURS), calls()),
            about="Share of calls that fail by our fault.",
            warn=0.001,
            alarm=0.01,
        ),
        figure(
            "Turned away",
            "percentunit",
            share(images("shed|late"), images()),
            about="Share of images that were refused, or not answered in time.",
            warn=0.01,
            alarm=0.05,
        ),
        figure(
            "Devices busy",
            "percentunit",
            f"avg({rate('regard_device_busy_seconds_total')})",
            about="Share of the time in which a device had a batch to run.",
            warn=0.8,
            alarm=0.95,
        ),
    ]


def latency() -> list[Panel]:
    """Calls, and where their time goes."""
    return [
        graph(
            "Extract calls",
            "s",
            *((extract(each), legend) for each, legend in PERCENTILES.items()),
            about="From a call's arrival to its answer, refusals included.",
        ),
        density(
            "Extract calls, all of them",
            "s",
            grown("regard_request_duration_seconds_bucket", 'method="Extract"'),
            about="What percentiles hide: two humps are two kinds of calls.",
        ),
        graph(
            "Stages, median",
            "s",
            *((seconds("0.5", each), each) for each in STAGES),
            about="Where an image's time goes. The queue grows first under load.",
        ),
        graph(
            "Stages, p99",
            "s",
            *((seconds("0.99", each), each) for each in STAGES),
            about="Where the slow ones' time goes.",
        ),
        graph(
            "Slow calls against the objective",
            "percentunit",
            *(
                (f'job:regard_slow_calls:ratio_rate{each}{{job="$job"}}', each)
                for each in ("5m", "1h", "6h", "3d")
            ),
            about="Share of Extract calls that took longer than 0.5 s, by window; the budget is 1 %.",
        ),
        graph(
            "Errors and refusals",
            "percentunit",
            ('job:regard_request_errors:ratio_rate5m{job="$job"}', "calls that failed by our fault"),
            ('job_model:regard_items_failed:ratio_rate5m{job="$job"}', "images of {{model}} that failed"),
            (
                'job_model:regard_items_unserved:ratio_rate5m{job="$job"}',
                "images of {{model}} refused or late",
            ),
            about="As the alerts see them.",
        ),
    ]


def traffic() -> list[Panel]:
    """What is asked, and what becomes of it."""
    requests = rate("regard_requests_total")
    return [
        graph(
            "Images by outcome",
            "none",
            (f"sum by (outcome) ({rate('regard_items_total')})", "{{outcome}}"),
            about="Images a second. ok is goodput: answered within their deadlines.",
            stacked=True,
        ),
        graph(
            "Goodput of what was asked",
            "percentunit",
            (share(images("ok"), images()), "answered in time"),
            about="Share of images that were answered in time; falls with overload and with callers' mistakes.",
            most=1,
        ),
        graph(
            "Calls by code",
            "reqps",
            (f"sum by (code) ({requests})", "{{code}}"),
            about="INTERNAL and UNAVAILABLE are ours, RESOURCE_EXHAUSTED is the load's, the others are the callers'.",
            stacked=True,
        ),
        graph(
            "Calls by method",
            "reqps",
            (f"sum by (method) ({requests})", "{{method}}"),
            about="A stream is one call, counted when it ends.",
            stacked=True,
        ),
        graph(
            "Bytes",
            "Bps",
            (f"sum({rate('regard_received_bytes_total')})", "images received"),
            (f"sum({rate('regard_sent_bytes_total')})", "features sent"),
            about="Payload, without gRPC's own.",
        ),
        graph(
            "Where answers come from",
            "none",
            (f"sum by (source) ({rate('regard_reuse_total')})", "{{source}}"),
            about="Images a second; only where identical images are reused (--deduplicate, --cache-bytes).",
            stacked=True,
        ),
    ]


def batches() -> list[Panel]:
    """How well batching works."""
    size = {name: rate(f"regard_batch_size_{name}") for name in ("sum", "count", "bucket")}
    compute = rate("regard_compute_duration_seconds_sum")
    padded = f"sum({rate('regard_padded_rows_total')})"
    return [
        graph(
            "Batch size",
            "none",
            (share(f"sum({size['sum']})", f"sum({size['count']})"), "mean"),
            (f"histogram_quantile(0.5, sum by (le) ({size['bucket']}))", "p50"),
            (f"histogram_quantile(0.99, sum by (le) ({size['bucket']}))", "p99"),
            about="Images in a batch. Larger under load, 1 for a caller alone.",
        ),
        density(
            "Batch sizes, all of them",
            "none",
            grown("regard_batch_size_bucket"),
            about="How well batching works.",
        ),
        graph(
            "Inside",
            "none",
            ('sum(regard_in_flight_images{job="$job"})', "in flight"),
            ('sum(regard_queue_depth{job="$job"})', "waiting for a device"),
            about="Images inside the servers at the moment of a scrape.",
        ),
        graph(
            "Compute time an image",
            "s",
            (share(f"sum({compute})", f"sum({size['sum']})"), "device seconds an image"),
            about="What an image costs the device; falls as batches grow.",
        ),
        graph(
            "Padding",
            "percentunit",
            (share(padded, f"({padded} + sum({size['sum']}))"), "rows for nobody"),
            about="Share of computed rows that only fill batches of a fixed size; engines without such sizes have 0.",
            most=1,
        ),
    ]


def saturation() -> list[Panel]:
    """How much more it could do."""
    memory = f"{of('regard_device_memory_used_bytes')} / {of('regard_device_memory_bytes')}"
    busy = rate("regard_device_busy_seconds_total")
    return [
        graph(
            "Room taken",
            "percentunit",
            *(
                (
                    f"max by (instance) ({of(f'regard_in_flight_{each}')} / {of(f'regard_in_flight_{each}_limit')})",
                    f"{each}, {{{{instance}}}}",
                )
                for each in ("images", "bytes")
            ),
            about="At 1 the server refuses with RESOURCE_EXHAUSTED; bulk at 0.9, where streams begin to wait.",
            most=1,
        ),
        graph(
            "Devices busy",
            "percentunit",
            (f"sum by (instance, device) ({busy})", "{{instance}} {{device}}"),
            about="Share of the time in which a device had a batch to run.",
        ),
        graph(
            "Processor",
            "none",
            (f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}"),
            about="Cores in use.",
        ),
        graph(
            "Memory",
            "bytes",
            ('sum by (instance) (process_resident_memory_bytes{job="$job"})', "{{instance}}"),
            about="Resident memory of the processes.",
        ),
        graph(
            "GPU utilisation",
            "percentunit",
            (
                'max by (instance, device) (regard_device_utilization_ratio{job="$job"})',
                "{{instance}} {{device}}",
            ),
            about="As the driver says; a GPU may be busy and yet far from full.",
            most=1,
        ),
        graph(
            "GPU memory",
            "percentunit",
            (f"max by (instance, device) ({memory})", "{{instance}} {{device}}"),
            about="Share that is taken, by whomever.",
            most=1,
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    made = board("overview", "regard: overview", "Is it well, how fast is it, and how much more could it do.")
    rows = {
        "Now": now(),
        "Latency": latency(),
        "Traffic": traffic(),
        "Batches and queue": batches(),
        "Saturation": saturation(),
    }
    return fill(made, rows)
