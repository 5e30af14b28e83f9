"""One model beside the others: what it is asked, what it costs, and which version it is."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import Panel, board, fill, graph, listing, of, rate, share

MODEL = 'model=~"$model"'


def chosen(metric: str, *matchers: str) -> str:
    """What a counter of the chosen models grows by in a second, by model."""
    return f"sum by (model) ({rate(metric, MODEL, *matchers)})"


def quantile(name: str, part: str) -> str:
    """What so large a part of a histogram's observations stays below, by model."""
    return f"histogram_quantile({part}, sum by (le, model) ({rate(f'regard_{name}_bucket', MODEL)}))"


def served() -> list[Panel]:
    """What answers."""
    return [
        listing(
            "Versions",
            f"max by (model, fingerprint, engine, dtype, device, trained) ({of('regard_model_info', MODEL)})",
            ["model", "fingerprint", "trained", "engine", "dtype", "device"],
            about="One line for each version. More than one fingerprint of a model: a rollout, or replicas that chose "
            "engines of their own.",
        )
    ]


def images() -> list[Panel]:
    """What becomes of images."""
    refused = rate("regard_items_total", MODEL, 'outcome!="ok"')
    return [
        graph(
            "Goodput",
            "none",
            (chosen("regard_items_total", 'outcome="ok"'), "{{model}}"),
            about="Images answered in time, a second.",
            stacked=True,
        ),
        graph(
            "Not answered",
            "none",
            (f"sum by (model, outcome) ({refused})", "{{model}} {{outcome}}"),
            about="Images a second that got no vector, by why.",
            stacked=True,
        ),
    ]


def time() -> list[Panel]:
    """Where an image's time goes."""
    stages = {
        "decode": "Decoding and resizing, the wait for a thread included.",
        "queue": "The wait for the device.",
        "compute": "A forward pass of a whole batch.",
    }
    return [
        *(
            graph(
                name.capitalize(),
                "s",
                (quantile(f"{name}_duration_seconds", "0.5"), "{{model}} p50"),
                (quantile(f"{name}_duration_seconds", "0.99"), "{{model}} p99"),
                about=about,
            )
            for name, about in stages.items()
        ),
        graph(
            "Compute time an image",
            "s",
            (
                share(chosen("regard_compute_duration_seconds_sum"), chosen("regard_batch_size_sum")),
                "{{model}}",
            ),
            about="What an image costs the device.",
        ),
    ]


def batches() -> list[Panel]:
    """How images ride together."""
    compute = "regard_compute_duration_seconds_sum"
    reuse = rate("regard_reuse_total", MODEL)
    return [
        graph(
            "Batch size",
            "none",
            (share(chosen("regard_batch_size_sum"), chosen("regard_batch_size_count")), "{{model}} mean"),
            (quantile("batch_size", "0.99"), "{{model}} p99"),
            about="Images in a batch.",
        ),
        graph(
            "Share of compute time",
            "percentunit",
            (
                f"{chosen(compute)} / ignoring (model) group_left () (sum({rate(compute)}) > 0)",
                "{{model}}",
            ),
            about="Which model the devices work for.",
            stacked=True,
        ),
        graph(
            "Reuse",
            "none",
            (f"sum by (model, source) ({reuse})", "{{model}} {{source}}"),
            about="Images a second by where their answer came from; only where identical images are reused.",
            stacked=True,
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    about = "What each model is asked, what it costs, and which version it is."
    made = board("models", "regard: models", about, "model")
    return fill(made, {"Served": served(), "Images": images(), "Time": time(), "Batches": batches()})
