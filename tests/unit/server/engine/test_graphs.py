"""The folder of traced graphs: what is found again, and what is removed."""

import os
import time

import pytest

from regard_server.engine.graphs import DamagedGraphError, Graph, TracedGraphs


def saving(size):
    """Write a graph whose weights take `size` bytes."""

    def save(path):
        path.write_bytes(b"<net/>")
        path.with_suffix(".bin").write_bytes(b"w" * size)

    return save


def age(path, seconds):
    """Make a file or folder look as if it was used last so long ago."""
    used = path.stat().st_mtime - seconds
    os.utime(path, (used, used))


def keep(graphs, folder, name, size=400, unused_for=0):
    """Keep a graph, and return its file."""
    before = set(folder.iterdir())
    graphs.keep(saving(size), name)
    (new,) = set(folder.iterdir()) - before
    age(new, unused_for)
    return new


def test_a_graph_is_found_by_what_it_was_made_from(tmp_path):
    graphs = TracedGraphs(tmp_path / "made" / "when needed")
    assert graphs.find("1.0", "weights") is None
    kept = graphs.keep(saving(3), "1.0", "weights")
    assert graphs.find("1.0", "weights") == kept == Graph(b"<net/>", b"www")
    assert graphs.find("1.1", "weights") is None
    assert graphs.find("1.0weights") is None


def test_those_unused_for_longest_go_when_there_are_too_many(tmp_path):
    """Three of four hundred bytes are one too many for a thousand: not the oldest goes, but the one not used since."""
    graphs = TracedGraphs(tmp_path, limit_bytes=1000)
    in_use = keep(graphs, tmp_path, "old, in use", unused_for=300)
    keep(graphs, tmp_path, "old", unused_for=200)
    assert graphs.find("old, in use")
    graphs.keep(saving(400), "new")
    assert graphs.find("new")
    assert graphs.find("old") is None
    assert in_use.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_newest_stays_however_large(tmp_path):
    graphs = TracedGraphs(tmp_path, limit_bytes=1000)
    graphs.keep(saving(400), "small")
    graphs.keep(saving(4000), "large")
    assert graphs.find("large")
    assert graphs.find("small") is None


def test_other_files_of_the_folder_stay(tmp_path):
    """Profiles lie there too, and what another server is writing."""
    (tmp_path / "profile.json").write_text("{}")
    (tmp_path / "writing-now").mkdir()
    (tmp_path / "writing-killed").mkdir()
    age(tmp_path / "writing-killed", 2 * 3600)
    graphs = TracedGraphs(tmp_path, limit_bytes=0)
    graphs.keep(saving(1), "a")
    graphs.keep(saving(1), "b")
    assert {"profile.json", "writing-now"} < {each.name for each in tmp_path.iterdir()}
    assert not (tmp_path / "writing-killed").exists()


def test_a_graph_that_could_not_be_written_leaves_nothing(tmp_path):
    graphs = TracedGraphs(tmp_path)

    def break_off(path):
        saving(10)(path)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        graphs.keep(break_off, "a")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_is_not_seen_before_it_is_whole(tmp_path):
    """By another server that looks while this one writes, nor by one that has the same number."""
    graphs, others = TracedGraphs(tmp_path), TracedGraphs(tmp_path)

    def save(path):
        saving(3)(path)
        assert others.find("a") is None
        others.keep(saving(3), "a")

    assert graphs.keep(save, "a") == others.find("a") == Graph(b"<net/>", b"www")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("place", [0, 35, 45, -1])
def test_a_changed_byte_is_noticed(tmp_path, place):
    """In the digest, the length, the layers or the weights."""
    graphs = TracedGraphs(tmp_path)
    file = keep(graphs, tmp_path, "a")
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedGraphError, match="not as it was written"):
        graphs.find("a")


@pytest.mark.parametrize("length", [0, 10, 40, 100])
def test_part_of_a_graph_is_none(tmp_path, length):
    graphs = TracedGraphs(tmp_path)
    file = keep(graphs, tmp_path, "a")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DamagedGraphError):
        graphs.find("a")


def test_a_graph_in_a_folder_that_cannot_be_written_is_still_found(tmp_path, monkeypatch):
    graphs = TracedGraphs(tmp_path)
    kept = graphs.keep(saving(1), "a")

    def refuse(*_args):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert graphs.find("a") == kept


def test_finding_a_graph_marks_it_as_used(tmp_path):
    graphs = TracedGraphs(tmp_path)
    file = keep(graphs, tmp_path, "a", unused_for=1000)
    graphs.find("a")
    assert time.time() - file.stat().st_mtime < 500
