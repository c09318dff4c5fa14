"""The Task of each objective, by its name in the config."""

from alpaca_jax.train.config import Config
from alpaca_jax.train.rollout.grpo import GrpoTask
from alpaca_jax.train.task import Task

TASKS: dict[str, type[Task]] = {"sft": Task, "grpo": GrpoTask}


def of(config: Config) -> Task:
    """The Task of the run's objective."""
    return TASKS[config.objective.name](config)
