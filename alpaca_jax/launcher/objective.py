"""What the jobs of a sweep are ranked by: a figure of each run, and which way it gets better."""

import dataclasses
from typing import Any

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError
from alpaca_jax.launcher.config import LauncherConfig
from alpaca_jax.metrics.direction import Mode, better

DEFAULT = "heldout_loss"
WORDS: dict[Mode, str] = {"min": "smallest", "max": "largest"}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A figure's name and whether less or more of it is better."""

    name: str
    mode: Mode

    @property
    def direction(self) -> str:
        """The same in the words of Optuna's sweeper."""
        return f"{self.mode}imize"

    @classmethod
    def of(cls, settings: LauncherConfig) -> "Objective":
        """That of a sweep's settings; a UserError where neither they nor the name say which way is better."""
        mode = settings.mode or better(settings.objective)
        if mode is None:
            raise UserError(
                f"hydra.launcher.objective={settings.objective}: whether less or more of it is better isn't known; "
                "give hydra.launcher.mode=min or hydra.launcher.mode=max"
            )
        return cls(settings.objective, mode)

    def check(self, verb: str, config: Any, needed: bool) -> None:
        """Raises a UserError where a run of `config` won't have the figure. That it isn't measured matters only if it was asked for, or is
        `needed`, because the sweeper looks for the best."""
        measured = getattr(config, "objectives", None)
        if (self.name == DEFAULT and not needed) or (measured is not None and _has(measured, self.name)):
            return
        if not measured:
            raise UserError(f"hydra.launcher.objective={self.name}: {verb} measures nothing that its runs could be ranked by")
        if self.name.startswith("heldout_loss"):
            raise UserError(
                f"hydra.launcher.objective={self.name}: these settings don't measure it; give evaluate_every=N, and data.heldout=N "
                "for the records that are held out"
            )
        raise UserError(
            f"hydra.launcher.objective={self.name}: a run of {verb} with these settings has no such figure"
            f"{suggestion(self.name, measured)}; it has {', '.join(measured)}"
        )


def _has(measured: list[str], name: str) -> bool:
    """Whether a figure is among those; a name that ends in `/` or `.` stands for all that begin so."""
    return any(name == one or (one[-1] in "/." and name.startswith(one)) for one in measured)
