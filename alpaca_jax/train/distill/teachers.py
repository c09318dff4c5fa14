"""The teachers of a run: which models they are, what they teach, and their weights in memory."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import stored_vocab_size
from alpaca_jax.model.tree import Tree, by_name, flatten
from alpaca_jax.train.config import Config
from alpaca_jax.train.distill import vocabulary
from alpaca_jax.train.distill.config import DistillConfig, TeacherConfig
from alpaca_jax.train.task import Site
from alpaca_jax.trainer.forward import Forward


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A teacher whose headers and tokenizer are read; its weights are loaded when they are needed."""

    name: str
    config: TeacherConfig
    model: Pretrained
    forward: Forward
    specs: llama.Params  # as its weights are stored
    shared: int  # how many tokens it has in common with the student

    @property
    def key(self) -> dict[str, Any]:
        """What decides its distributions, as JSON."""
        return {
            "weights": self.model.likeness,
            "average": self.model.source.endswith(pretrained.AVERAGE),
            "weight": self.config.weight,
            "data": list(self.config.data),
            "compute_dtype": jnp.dtype(self.forward.compute_dtype).name,
        }

    @property
    def head(self) -> tuple[str, ...]:
        """The path of its output matrix."""
        return ("embed" if self.model.architecture.tie_embeddings else "head", "weight")

    def load(self, abstract: Tree) -> Tree:
        """The weights of these names, with the dtypes and places of `abstract`."""
        known = flatten(abstract)
        dtype = next(iter(known.values())).dtype
        rows = self.specs["embed"]["weight"].shape[0]
        return pretrained.load_params(self.model, dtype, lambda path: known[path].sharding, stored_vocab=rows, names=set(by_name(abstract)))

    def head_of(self, abstract: Tree) -> Tree:
        """Its output matrix alone, {"weight": [V, D]}, with the dtype and place of `abstract`."""
        params = self.load({self.head[0]: abstract})
        return {"weight": params[self.head[0]]["weight"]}


def open_all(config: Config, site: Site) -> dict[str, Teacher]:
    """The teachers of a run by name; a UserError where one doesn't fit the student or the data."""
    assert isinstance(config.objective, DistillConfig)
    given = config.objective.all_teachers
    _check_data(given, list(config.data.sources))
    dtype = config.objective.dtype or config.model.compute_dtype
    return {name: _open(name, teacher, dtype, config, site) for name, teacher in given.items()}


def _open(name: str, given: TeacherConfig, dtype: str, config: Config, site: Site) -> Teacher:
    model = pretrained.open(ModelConfig(source=given.source, cache=config.model.cache))
    shared = vocabulary.shared(site.tokenizer, model.tokenizer, given.source)
    forward = Forward(model.architecture, jnp.dtype(config.model.compute_dtype), constrain=site.layout.constrain)
    rows = stored_vocab_size(model.architecture.vocab_size, config.model.vocab_multiple)
    return Teacher(name, given, model, forward, llama.specs(model.architecture, rows, jnp.dtype(dtype)), shared)


def _check_data(given: Mapping[str, TeacherConfig], sources: list[str]) -> None:
    for name, teacher in given.items():
        for source in teacher.data:
            if source not in sources:
                known = f"the sources are {', '.join(sources)}" if sources else "the run has one file of records and no data.sources"
                raise UserError(f"objective.teachers.{name}.data names {source}, but {known}{suggestion(source, sources)}")
    for source in sources:
        if not any(not teacher.data or source in teacher.data for teacher in given.values()):
            raise UserError(f"data.sources.{source} has no teacher: name it in objective.teachers.NAME.data")


def shares(teachers: Mapping[str, Teacher], sources: list[str], counts: list[int]) -> np.ndarray:
    """The weights of the teachers for each example, float32 [N, teachers]; `counts` are the examples of each source."""
    rows = [[each.config.weight * (not each.config.data or source in each.config.data) for each in teachers.values()] for source in sources]
    table = np.array(rows, np.float32)
    return np.repeat(table / table.sum(axis=1, keepdims=True), counts, axis=0)


def placed(specs: Tree, site: Site) -> Tree:
    """The ShapeDtypeStruct of each weight in its place on the run's devices."""
    places = site.layout.tree(specs, "weights")
    return jax.tree.map(
        lambda spec, place: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=place),
        specs, places, is_leaf=lambda leaf: isinstance(leaf, llama.WeightSpec),
    )  # fmt: skip
