"""A trace of a few steps, for TensorBoard's profiler or Perfetto."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.metrics.config import ProfileConfig


class Profile:
    """Traces the steps that `config` names into `folder` (an object store gets the finished trace); does nothing without a config.

    A run that resumes among those steps traces the rest of them.
    """

    def __init__(self, config: ProfileConfig | None, folder: str | Path) -> None:
        self.folder = storage.at(folder)
        self._local = self.folder
        self._steps = range(0) if config is None else range(config.start, config.start + config.steps)
        self._tracing = False

    def before(self, step: int) -> None:
        """Starts the trace if `step` (counted from 1), about to be taken, is the first to be traced."""
        if step in self._steps and not self._tracing:
            import jax

            if storage.is_remote(self.folder):
                self._local = Path(tempfile.mkdtemp(prefix="alpaca-jax-profile-"))
            self._local.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._local))
            self._tracing = True

    def after(self, step: int, results: Any = None) -> None:
        """Ends the trace if `step` was the last to be traced, once its `results` (any tree of arrays) are ready."""
        if self._tracing and step + 1 not in self._steps:
            import jax

            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace still in progress, as when the run stops before the last traced step."""
        if self._tracing:
            import jax

            self._tracing = False
            jax.profiler.stop_trace()
            if self._local != self.folder:
                storage.send(self._local, self.folder)
                shutil.rmtree(self._local, ignore_errors=True)
