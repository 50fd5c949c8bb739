"""How much memory there is, and how much of it is free."""

import os
import pathlib

_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_bytes() -> int | None:
    """What a program may still take without swapping, a container's limit included; None where unknown."""
    found = []
    path = pathlib.Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    for limit, usage in _LIMITS:
        try:
            found.append(int(pathlib.Path(limit).read_text()) - int(pathlib.Path(usage).read_text()))
        except (OSError, ValueError):  # no such control group, or `max`: no limit
            continue
    return max(0, min(found)) if found else None


def total_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
