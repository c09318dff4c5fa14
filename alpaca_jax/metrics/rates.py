"""Token-weighted means, and throughput with its units."""

import math
import time
from collections.abc import Callable


class WeightedMean:
    """A mean in which every token counts once: sums and weights are accumulated and divided at the end."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, total: float, weight: float) -> None:
        """Adds a batch's SUM (not its mean) and the number of tokens it covers."""
        self.total += float(total)
        self.weight += float(weight)

    @property
    def value(self) -> float:
        """The mean over all tokens added; NaN if there were none."""
        return self.total / self.weight if self.weight else math.nan


class Throughput:
    """Rates between two calls of `take`: real (non-pad) tokens and slots a second, utilisation (tokens / slots), and MFU.

    MFU is the model's FLOP for real tokens, without recomputation, over `peak_flops` (the dense peak of all devices together, FLOP/s);
    it is None if the peak is unknown. `mfu_full_attention` is the figure other projects report, as if every token attended to a
    whole row.
    """

    def __init__(self, peak_flops: float | None = None, tokens: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self.peak_flops = peak_flops
        self.tokens = tokens
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Restarts the clock and forgets what was added since the last `take`, as after a compilation; keeps `tokens`."""
        self._start = self._clock()
        self._tokens = self._slots = 0
        self._flops = self._flops_full = 0.0

    def add(self, tokens: int, slots: int, flops: float = 0.0, flops_full: float = 0.0) -> None:
        """Counts a step's real tokens, slots (rows x length) and model FLOP, with attention inside segments and over whole rows.

        The attribute `tokens` is the total since the run began.
        """
        self.tokens += int(tokens)
        self._tokens += int(tokens)
        self._slots += int(slots)
        self._flops += float(flops)
        self._flops_full += float(flops_full)

    def take(self) -> dict[str, float | None]:
        """Returns tokens_per_second, slots_per_second, utilisation, mfu and mfu_full_attention since the last call, and restarts."""
        seconds = max(self._clock() - self._start, 1e-9)
        rates = {
            "tokens_per_second": self._tokens / seconds,
            "slots_per_second": self._slots / seconds,
            "utilisation": self._tokens / self._slots if self._slots else None,
            "mfu": self._mfu(self._flops, seconds),
            "mfu_full_attention": self._mfu(self._flops_full, seconds),
        }
        self.restart()
        return rates

    def _mfu(self, flops: float, seconds: float) -> float | None:
        return flops / seconds / self.peak_flops if self.peak_flops and flops else None
