"""How a run's wall time is spent, and the share spent in steps."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

Kind = Literal["step", "input", "checkpoint", "compile", "evaluate", "other"]
KINDS: tuple[str, ...] = get_args(Kind)


class Goodput:
    """Seconds of wall time by kind since the run began, restarts included; each second counts for exactly one kind.

    Goodput is the share of wall time spent in steps. Time outside every `spent` is `other`. If the run was killed, the work since its
    last checkpoint and the time until its restart are unknown here and not counted.
    """

    def __init__(self, state: Mapping[str, float] | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        """`state` is what `state()` returned before the restart."""
        self._seconds = {kind: float((state or {}).get(kind, 0.0)) for kind in KINDS}
        self._kind = "other"
        self._clock = clock
        self._since = clock()

    @contextlib.contextmanager
    def spent(self, kind: Kind) -> Iterator[None]:
        """A context whose time counts as `kind`; when nested, its time is not counted for the outer one."""
        assert kind in KINDS, kind
        outer = self._turn(kind)
        try:
            yield
        finally:
            self._turn(outer)

    @property
    def value(self) -> float | None:
        """The share of wall time in steps, 0 to 1; None before any time has passed."""
        return self.share().get("step")

    def share(self) -> dict[str, float]:
        """Returns each kind's share of the wall time; empty before any time has passed."""
        seconds = self.state()
        total = sum(seconds.values())
        return {kind: spent / total for kind, spent in seconds.items()} if total > 0 else {}

    def state(self) -> dict[str, float]:
        """Returns the seconds of each kind up to now, for a checkpoint."""
        self._turn(self._kind)
        return dict(self._seconds)

    def _turn(self, kind: str) -> str:
        """Counts the time up to now for the current kind, switches to `kind`, and returns the previous one."""
        now = self._clock()
        self._seconds[self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        return before
