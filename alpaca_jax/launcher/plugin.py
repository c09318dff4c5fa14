"""The launcher as Hydra sees it. Registered by hand, it needs no top-level package `hydra_plugins`."""

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

Launch = Callable[[DictConfig, HydraContext, dict[str, Any], Sequence[Sequence[str]]], Sequence[JobReturn]]


class ClusterLauncher(Launcher):
    """Passes the combinations of a sweep to the function that Hydra got as its task: no job runs in this process."""

    __module__ = "hydra_plugins.alpaca_jax"  # Hydra refuses launchers of other packages

    def __init__(self, **settings: Any) -> None:
        self.settings = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in settings.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Stores what `launch` needs."""
        self._context, self._launch, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns the result of each combination, in order."""
        launch: Launch = self._launch  # type: ignore[assignment]
        return launch(self._config, self._context, self.settings, job_overrides)


def register() -> None:
    """Registers the launcher with Hydra; repeated calls change nothing."""
    Plugins.instance().register(ClusterLauncher)
    # Hydra looks a target up by name, so the name must lead to this module; other plugins may share its first part.
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    sys.modules[ClusterLauncher.__module__] = plugins.alpaca_jax = sys.modules[__name__]  # type: ignore[attr-defined]
