"""The models of one server by their names: the base, and an adapter over it each; one base is in memory for all."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alpaca_jax.decode.generation import BASE
from alpaca_jax.decode.sides import Served
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native, pretrained
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter import layout, reader
from alpaca_jax.formats.adapter import peft as pefts
from alpaca_jax.formats.adapter.peft import Peft
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.tokenizer import Tokenizer


class Model(NamedTuple):
    """A name at the endpoint, and what a request for it needs."""

    name: str
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    number: int = BASE  # of the adapter that its sequences have


class Models:
    """The models by name; the first is the base, whose tokenizer answers where a request names none."""

    def __init__(self, each: Sequence[Model]) -> None:
        self._by_name = {model.name: model for model in each}
        assert len(self._by_name) == len(each) > 0, [model.name for model in each]
        self.first = each[0]

    @property
    def names(self) -> list[str]:
        """In the order in which they are listed."""
        return list(self._by_name)

    def get(self, name: str | None) -> Model | None:
        """The model of that name, the first for None; None where there is no such name."""
        return self.first if name is None else self._by_name.get(name)


@dataclasses.dataclass(frozen=True)
class Opened:
    """An adapter that fits the base: its name at the endpoint, its arrays, and the base with it."""

    name: str
    served: Served
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    note: str = ""  # what may be unexpected

    def model(self, number: int) -> Model:
        """Its model, as the adapter of that number."""
        return Model(self.name, self.tokenizer, frozenset(self.eos_ids), number)


def opened(adapters: Mapping[str, str], base: Pretrained, name: str) -> list[Opened]:
    """The adapters by their names, read; `name` is the base's own. A UserError names the adapter that can't be served over this base."""
    if name in adapters:
        raise UserError(f"adapters.{name}: the base has this name too; give the adapter or the base (name=) another one")
    return [_opened(each, folder, base) for each, folder in adapters.items()]


def _opened(name: str, source: str, base: Pretrained) -> Opened:
    where, folder = f"adapters.{name}={source}", Path(source).expanduser()
    try:
        if (folder / adapter_config.FILE).is_file():
            peft, merged = pefts.open_folder(folder), reader.merge(folder, base)
            trained_on = str(peft.config.get("base_model_name_or_path") or "")
        else:
            peft, merged, trained_on = _of_run(folder)
        if merged.architecture != base.architecture:
            raise UserError(f"its model is not of the sizes of {base.source}: give the base that it was trained on as model.source")
        served = Served(*layout.arrays(peft, base.architecture))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    note = ""
    if trained_on and not _same(trained_on, base):
        note = f"{where} was trained on {trained_on}, and is served over {base.source}"
    return Opened(name, served, merged.tokenizer, merged.eos_ids, note)


def _of_run(folder: Path) -> tuple[Peft, Pretrained, str]:
    """The adapter of a training run, its merged model, and what it was trained on."""
    if native.find(folder) is None:
        raise UserError(f"is neither a PEFT folder (no {adapter_config.FILE}) nor a training run; give one that holds an adapter")
    merged = pretrained.open(str(folder))
    if merged.adapted is None:
        raise UserError("is a run without an adapter: its weights are a whole model; serve it by itself as model.source")
    return merged.adapted.peft, merged, merged.adapted.base.source


def _same(trained_on: str, base: Pretrained) -> bool:
    """Whether two names of a base may mean the same one: equal, or equal paths."""
    known = {base.source, base.origin} - {None}
    return trained_on in known or str(Path(trained_on).expanduser().resolve()) in {
        str(Path(str(one)).expanduser().resolve()) for one in known
    }
