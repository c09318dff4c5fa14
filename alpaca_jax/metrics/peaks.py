"""The peak memory of a process."""

import re
import resource
import sys
from pathlib import Path


def memory() -> dict[str, int | None]:
    """Returns `device_peak_bytes`, the highest of the local devices (None if the backend doesn't report it, as on a CPU),
    and `host_peak_bytes`, the peak resident memory of this process."""
    import jax

    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return {"device_peak_bytes": max(peaks, default=None), "host_peak_bytes": _host_peak()}


def _host_peak(status: Path = Path("/proc/self/status")) -> int:
    # On Linux a child inherits its parent's ru_maxrss; VmHWM covers this process alone.
    if status.is_file() and (high_water := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(high_water[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
