"""How many CPU cores this process may use: the host's count is the wrong answer in a container.

A quota stands in a control group, and each group is within another whose quota holds, too: a systemd unit's CPUQuota is
that of a group well below the root, and a container sees its own as the root only under a private namespace.

    /sys/fs/cgroup/cpu.max ← system.slice/cpu.max ← regard.service/cpu.max     the path stands in /proc/self/cgroup
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WAIT_POLICY: Final = "OMP_WAIT_POLICY"
"""The variable by which OpenMP's threads sleep ("PASSIVE") or spin while they wait; read once, with torch's import."""

_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the smaller of the affinity mask and the cgroups' CPU quota, rounded up; at least 1."""
    quota = cpu_quota()
    return max(1, min(_affinity(), math.ceil(quota)) if quota else _affinity())


def cpu_quota() -> float | None:
    """Return the smallest quota of this process's cgroup and those around it, in cores; None where there is none."""
    quotas = (_quota(folder) for folder in _cgroups())
    return min((quota for quota in quotas if quota is not None), default=None)


def threads_spin() -> bool:
    """Say whether OpenMP has not been told to let its threads sleep while they wait."""
    return os.environ.get(WAIT_POLICY, "").upper() != "PASSIVE"


def _affinity() -> int:
    # macOS and Windows have no affinity mask to ask for.
    mask = getattr(os, "sched_getaffinity", None)
    return len(mask(0)) if mask else os.cpu_count() or 1


def _cgroups() -> Iterator[Path]:
    """Yield where this process's cgroup may be found, and those around it up to what is mounted.

    A line is `0::/path` for version 2, `4:cpu,cpuacct:/path` for a controller of version 1 (cgroups(7)). Of a path
    that is the host's, in a container that sees its own group alone, no part is found but the root, which is its own.
    """
    lines = _MEMBERSHIP.read_text().splitlines() if _MEMBERSHIP.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = [_CGROUPS]
        elif "cpu" in controllers.split(","):
            mounts = [_CGROUPS / "cpu", _CGROUPS / controllers]  # the one is often a link to the other
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        for mount in mounts:
            yield from (mount.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _quota(cgroup: Path) -> float | None:
    """Return the quota of one cgroup in cores, or None where it has none."""
    if (cgroup / "cpu.max").is_file():
        quota, period = (cgroup / "cpu.max").read_text().split()
    elif (cgroup / "cpu.cfs_quota_us").is_file():
        quota = (cgroup / "cpu.cfs_quota_us").read_text().strip()
        period = (cgroup / "cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if quota in {"max", "-1"} else float(quota) / float(period)
