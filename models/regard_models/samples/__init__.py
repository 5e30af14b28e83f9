"""A dozen photographs to try things on; see ATTRIBUTION.md for their authors and licences."""

from pathlib import Path


def sample_photographs() -> list[Path]:
    """Return the paths of the photographs, JPEG files of at most 100 kB, by name."""
    return sorted(Path(__file__).parent.glob("*.jpg"))
