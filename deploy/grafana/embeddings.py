"""The health of the vectors: have they moved, have they collapsed, are there NaN."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import Panel, board, fill, graph, listing, of, rate, share

MODEL = 'model=~"$model"'
LEGEND = "{{model}} {{fingerprint}}"


def mean(metric: str) -> str:
    """A gauge's mean over replicas, by version."""
    return f"avg by (model, fingerprint) ({of(metric, MODEL)})"


def total(metric: str) -> str:
    """What a counter grows by in a second, by version."""
    return f"sum by (model, fingerprint) ({rate(metric, MODEL)})"


def against_reference() -> list[Panel]:
    """Are they what they were."""
    return [
        graph(
            "Drift",
            "none",
            (mean("regard_embedding_drift"), LEGEND),
            about="How far the mean direction is from the reference's; 1 is the distance that an embedding of the "
            "reference has from its mean. From 0.5 on the images, or the way they are read, are not what they were.",
        ),
        graph(
            "Variety",
            "percentunit",
            (of("job_model_fingerprint:regard_embedding_variety:ratio", MODEL), LEGEND),
            about="How much embeddings vary, of how much those of the reference did. Near 0 they have collapsed, or "
            "one image is sent over and over.",
        ),
        graph(
            "Similarity",
            "none",
            (mean("regard_embedding_similarity"), f"{LEGEND} now"),
            (mean("regard_embedding_reference_similarity"), f"{LEGEND} reference"),
            about="Mean cosine of two embeddings.",
        ),
        graph(
            "Effective rank",
            "none",
            (mean("regard_embedding_effective_rank"), LEGEND),
            about="How many directions recent embeddings vary in.",
        ),
    ]


def by_themselves() -> list[Panel]:
    """Are they well."""
    return [
        graph(
            "Mean norm",
            "none",
            (share(total("regard_embedding_norm_sum"), total("regard_embedding_norm_count")), LEGEND),
            about="Mean length of the embeddings that were sampled.",
        ),
        graph(
            "NaN or infinity",
            "none",
            (total("regard_nonfinite_total"), LEGEND),
            about="Images a second that were answered with an error for it.",
        ),
        graph(
            "Samples",
            "none",
            (total("regard_embedding_norm_count"), LEGEND),
            about="Embeddings a second that all this is computed from.",
        ),
    ]


def versions() -> list[Panel]:
    """Whose they are."""
    info = of("regard_model_info", MODEL)
    return [
        graph(
            "Versions at once",
            "none",
            (f"count by (model) (count by (model, fingerprint) ({info}))", "{{model}}"),
            about="More than 1 outside a rollout: vectors that do not compare are given out.",
        ),
        listing(
            "Fingerprints",
            f"count by (model, fingerprint, engine, dtype) ({info})",
            ["model", "fingerprint", "engine", "dtype"],
            about="Which versions answer.",
        ),
    ]


def build() -> Dashboard:
    """Return the dashboard."""
    about = "Have the vectors moved, have they collapsed, are there NaN."
    made = board("embeddings", "regard: embeddings", about, "model")
    rows = {
        "Against the reference": against_reference(),
        "By themselves": by_themselves(),
        "Versions": versions(),
    }
    return fill(made, rows)
