"""How many cores a container may use."""

import pytest

from regard_server import cores


@pytest.fixture
def cgroups(tmp_path, monkeypatch):
    """An empty cgroup tree, at whose root this process is, and eight cores in the affinity mask."""
    monkeypatch.setattr(cores, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_affinity", lambda: 8)
    (tmp_path / "cgroup").mkdir()
    belong(tmp_path / "cgroup", "12:cpu,cpuacct:/", "0::/")
    return tmp_path / "cgroup"


def belong(cgroups, *lines):
    (cgroups.parent / "membership").write_text("".join(f"{line}\n" for line in lines))


def write_v2(cgroup, quota):
    cgroup.mkdir(parents=True, exist_ok=True)
    (cgroup / "cpu.max").write_text(f"{quota}\n")


def write_v1(cgroup, quota):
    cgroup.mkdir(parents=True, exist_ok=True)
    (cgroup / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu.cfs_period_us").write_text("100000\n")


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
def test_version_2_quota_counts_rounded_up(cgroups, line, expected):
    """The quota of cgroup v2 caps the affinity mask, rounded up, and one core is the least."""
    write_v2(cgroups, line)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 8), (300000, 3), (50000, 1)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_quota_counts_rounded_up(cgroups, mount, quota, expected):
    """The quota of cgroup v1 does the same, wherever its controller is mounted; -1 means none."""
    write_v1(cgroups / mount, quota)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize(
    ("unit", "around", "expected"), [("200000 100000", "max 100000", 2), ("max 100000", "300000 100000", 3)]
)
def test_the_quota_of_a_unit_and_those_around_it_count(cgroups, unit, around, expected):
    """A systemd unit's quota is found well below the root, and the smallest on the way there holds."""
    belong(cgroups, "0::/regard.slice/regard.service")
    write_v2(cgroups / "regard.slice", around)
    write_v2(cgroups / "regard.slice" / "regard.service", unit)
    write_v2(cgroups / "other.service", "100000 100000")
    assert cores.usable_cores() == expected


def test_a_controller_of_version_1_has_a_path_of_its_own(cgroups):
    """Each controller of v1 has its own tree, and only that of the processor counts."""
    belong(cgroups, "3:memory:/small", "2:cpu,cpuacct:/unit/inner", "1:cpuset:/small", "0::/small")
    write_v1(cgroups / "cpu" / "small", 100000)
    write_v1(cgroups / "cpu" / "unit", 400000)
    write_v1(cgroups / "cpu" / "unit" / "inner", 600000)
    assert cores.usable_cores() == 4


@pytest.mark.parametrize("path", ["/docker/0123", "/../other"])
def test_a_container_that_sees_its_own_group_alone_has_it_as_the_root(cgroups, path):
    """The host's path leads nowhere there, nor does one out of the namespace; the root's quota is the container's."""
    belong(cgroups, f"0::{path}")
    write_v2(cgroups, "250000 100000")
    write_v2(cgroups.parent / "other", "100000 100000")
    assert cores.usable_cores() == 3


def test_without_a_cgroup_the_affinity_mask_decides(cgroups):
    """Where there are no files the process may use what its mask allows."""
    assert cores.usable_cores() == 8
    (cgroups.parent / "membership").unlink()
    assert cores.usable_cores() == 8


def test_the_affinity_mask_is_that_of_this_process():
    """The mask is asked for, and holds at least this core."""
    assert cores._affinity() >= 1
