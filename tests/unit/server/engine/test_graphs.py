"""The folder of traced graphs: what is found again, and what is removed."""

import os

import pytest

from regard_server.engine.graphs import TracedGraphs


def saving(size):
    """Write a graph whose weights take `size` bytes."""

    def save(path):
        path.write_text("<net/>")
        path.with_suffix(".bin").write_bytes(bytes(size))

    return save


def age(layers, seconds):
    """Make a graph look as if it was used last so long ago."""
    weights = layers.with_suffix(".bin")
    used = weights.stat().st_mtime - seconds
    os.utime(weights, (used, used))


def test_a_graph_is_found_by_what_it_was_made_from(tmp_path):
    graphs = TracedGraphs(tmp_path / "made" / "when needed")
    assert graphs.find("1.0", "weights") is None
    kept = graphs.keep(saving(1), "1.0", "weights")
    assert graphs.find("1.0", "weights") == kept
    assert graphs.find("1.1", "weights") is None
    assert graphs.find("1.0weights") is None


def test_those_unused_for_longest_go_when_there_are_too_many(tmp_path):
    """Three of four hundred bytes are one too many for a thousand: not the oldest goes, but the one not used since."""
    graphs = TracedGraphs(tmp_path, limit_bytes=1000)
    age(graphs.keep(saving(400), "old, in use"), 300)
    age(graphs.keep(saving(400), "old"), 200)
    graphs.find("old, in use")
    graphs.keep(saving(400), "new")
    assert graphs.find("old, in use")
    assert graphs.find("new")
    assert graphs.find("old") is None
    assert len(list(tmp_path.iterdir())) == 4, "two files of each of the two that stay"


def test_the_newest_stays_however_large(tmp_path):
    graphs = TracedGraphs(tmp_path, limit_bytes=1000)
    graphs.keep(saving(400), "small")
    graphs.keep(saving(4000), "large")
    assert graphs.find("large")
    assert graphs.find("small") is None


def test_other_files_of_the_folder_stay(tmp_path):
    """Profiles lie there too."""
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    graphs = TracedGraphs(tmp_path, limit_bytes=0)
    graphs.keep(saving(1), "a")
    graphs.keep(saving(1), "b")
    assert profile.exists()


def test_a_graph_that_could_not_be_written_leaves_nothing(tmp_path):
    graphs = TracedGraphs(tmp_path)

    def break_off(path):
        saving(10)(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        graphs.keep(break_off, "a")
    assert list(tmp_path.iterdir()) == []


def test_half_a_graph_is_none(tmp_path):
    """Where another server is about to keep it, the weights are there before the layers."""
    graphs = TracedGraphs(tmp_path)
    graphs.keep(saving(1), "a").unlink()
    assert graphs.find("a") is None


def test_a_graph_in_a_folder_that_cannot_be_written_is_still_found(tmp_path, monkeypatch):
    graphs = TracedGraphs(tmp_path)
    kept = graphs.keep(saving(1), "a")

    def refuse(*_args):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert graphs.find("a") == kept
