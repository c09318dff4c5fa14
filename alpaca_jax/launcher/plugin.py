"""The launcher as Hydra knows it. Registered by hand, it needs no top-level package `hydra_plugins` of our own."""

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
    """Hands the combinations of a sweep on to the function that Hydra was given as its task: no job runs in this process."""

    __module__ = "hydra_plugins.alpaca_jax"  # Hydra starts no launcher of another package

    def __init__(self, **settings: Any) -> None:
        self.settings = {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in settings.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what Hydra says."""
        self._context, self._launch, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns what came of each combination, in their order."""
        launch: Launch = self._launch  # type: ignore[assignment]
        return launch(self._config, self._context, self.settings, job_overrides)


def register() -> None:
    """Makes the launcher known to Hydra; more than once is once."""
    Plugins.instance().register(ClusterLauncher)
    # Hydra looks a target up by its name, so the name has to lead to this module; other plugins may share its first part.
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        plugins.__path__ = []
    sys.modules[ClusterLauncher.__module__] = plugins.alpaca_jax = sys.modules[__name__]  # type: ignore[attr-defined]
