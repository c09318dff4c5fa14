"""The Task of each objective, by its name in the config."""

from alpaca_jax.train.config import Config
from alpaca_jax.train.distill.task import Distillation
from alpaca_jax.train.preference.kto import KtoTask
from alpaca_jax.train.preference.task import PairTask, RewardTask
from alpaca_jax.train.rollout.grpo import GrpoTask
from alpaca_jax.train.rollout.on_policy import OnPolicy
from alpaca_jax.train.task import Task

TASKS: dict[str, type[Task]] = {
    "sft": Task,
    "distill": Distillation,
    "dpo": PairTask,
    "simpo": PairTask,
    "orpo": PairTask,
    "kto": KtoTask,
    "reward": RewardTask,
    "grpo": GrpoTask,
    "on_policy": OnPolicy,
}


def of(config: Config) -> Task:
    """The Task of the run's objective."""
    return TASKS[config.objective.name](config)
