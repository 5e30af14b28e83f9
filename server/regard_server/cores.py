"""How many CPU cores this process may use: the host's count is the wrong answer in a container."""

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def usable_cores() -> int:
    """Return the smaller of the affinity mask and the cgroup's CPU quota, rounded up; at least 1."""
    quota = _quota(_CGROUP_V2, _CGROUP_V1)
    return max(1, min(_affinity(), math.ceil(quota)) if quota else _affinity())


def _affinity() -> int:
    # macOS and Windows have no affinity mask to ask for.
    mask = getattr(os, "sched_getaffinity", None)
    return len(mask(0)) if mask else os.cpu_count() or 1


def _quota(v2: Path, v1: Path) -> float | None:
    """Return the quota in cores, or None where there is none."""
    if v2.is_file():
        quota, period = v2.read_text().split()
    elif (v1 / "cpu.cfs_quota_us").is_file():
        quota = (v1 / "cpu.cfs_quota_us").read_text().strip()
        period = (v1 / "cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if quota in {"max", "-1"} else float(quota) / float(period)
