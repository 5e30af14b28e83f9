"""How many cores a container may use."""

import pytest

from regard_server import cores


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """An empty cgroup tree, and eight cores in the affinity mask."""
    monkeypatch.setattr(cores, "_CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(cores, "_CGROUP_V1", tmp_path / "cpu")
    monkeypatch.setattr(cores, "_affinity", lambda: 8)
    return tmp_path


def write_v1(cgroup, quota):
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
    ],
    ids=["no quota", "two", "one and a half", "a tenth", "more than the mask"],
)
def test_version_2_quota_counts_rounded_up(cgroup, line, expected):
    """The quota of cgroup v2 caps the affinity mask, rounded up, and one core is the least."""
    (cgroup / "cpu.max").write_text(f"{line}\n")
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 8), (300000, 3), (50000, 1)])
def test_version_1_quota_counts_rounded_up(cgroup, quota, expected):
    """The quota of cgroup v1 does the same; -1 means none."""
    write_v1(cgroup, quota)
    assert cores.usable_cores() == expected


def test_without_a_cgroup_the_affinity_mask_decides(cgroup):
    """Where there are no files the process may use what its mask allows."""
    assert not list(cgroup.iterdir())
    assert cores.usable_cores() == 8


def test_the_affinity_mask_is_that_of_this_process():
    """The mask is asked for, and holds at least this core."""
    assert cores._affinity() >= 1
