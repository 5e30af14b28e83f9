"""What the models setting means."""

import pytest

from regard_models import DEFAULT_MODEL
from regard_server.sources import InvalidSourceError, resolve_sources


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "mine.safetensors"
    path.touch()
    return str(path)


def test_nothing_means_the_default_model():
    """A server without a models setting serves the small default."""
    assert resolve_sources([]) == [(DEFAULT_MODEL, DEFAULT_MODEL)]


def test_names_and_files_with_and_without_a_name_of_their_own(weights):
    """A file is called by its stem, unless it, or a registered model, is given another name."""
    given = ["resnet18", "fast=resnet_tiny", weights, f"ours={weights}"]
    assert resolve_sources(given) == [
        ("resnet18", "resnet18"),
        ("fast", "resnet_tiny"),
        ("mine", weights),
        ("ours", weights),
    ]


def test_every_fault_is_reported_at_once(tmp_path):
    """An unknown name, a missing file and a name given twice are three lines of one message."""
    missing = tmp_path / "no.safetensors"
    with pytest.raises(InvalidSourceError) as error:
        resolve_sources(["resnet19", str(missing), "resnet18", "resnet18"])
    unknown, absent, twice = str(error.value).splitlines()
    assert "'resnet19'; did you mean resnet1" in unknown
    assert str(missing) in absent
    assert "'resnet18' is given twice" in twice
