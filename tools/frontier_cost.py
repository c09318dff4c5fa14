"""The costs of experiment=frontier, computed: `python -m tools.frontier_cost` prints the table of docs/frontier.md."""

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alpaca_jax import config as configuration
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.scores.frontier.computed import Computed, compute, table

TEACHERS = ("gpt-4.1", "gpt-4.1-nano")
RECORDS = (13_000, 26_000, 52_000)
STUDENTS = {"llama_7b": 3.0, "llama_13b": 5.0}  # epochs, as in the experiment's recipe


def architecture(name: str) -> Architecture:
    """Returns the sizes of a published model, as configs/model has them."""
    with initialize_config_dir(str(configuration.directory() / "model"), version_base="1.3"):
        found = configuration.parse(ModelConfig, OmegaConf.to_container(compose(name)), name).architecture
    assert found is not None
    return found


def costs() -> list[Computed]:
    """Returns the cost of each of the twelve runs."""
    sizes = {name: architecture(name) for name in STUDENTS}
    return [
        compute(teacher, student, sizes[student], records, epochs)
        for teacher in TEACHERS
        for student, epochs in STUDENTS.items()
        for records in RECORDS
    ]


if __name__ == "__main__":
    print(table(costs()))
