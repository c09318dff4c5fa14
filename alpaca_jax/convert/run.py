"""Reads a model of any format and writes it as a Hugging Face folder, which appears whole or not at all."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from alpaca_jax.config import to_mapping
from alpaca_jax.convert.config import Config
from alpaca_jax.errors import UserError
from alpaca_jax.formats import huggingface, names, pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.pretrained import Pretrained
from alpaca_jax.formats.source import sha256
from alpaca_jax.rundir import read_json

RECEIPT = "conversion.json"
console = Console(stderr=True)


def run(config: Config) -> Path:
    """Returns the folder `config.target`, which holds `config.source` in Hugging Face format; done before from the same weights, it stays.

    A UserError where the source can't be read or the target holds anything else.
    """
    model = pretrained.open(ModelConfig(source=config.source, cache=config.cache))
    target = Path(config.target).expanduser()
    receipt = {"source": config.source, "fingerprint": model.fingerprint, "dtype": config.dtype, "license": config.license}
    if _occupied(target, receipt):
        console.print(f"{target} holds this conversion already")
    else:
        with _progress(_tensors(model)) as advance:
            huggingface.export(
                target,
                model.architecture,
                model.tokenizer,
                model.read,
                dtype=config.dtype,
                eos_ids=model.eos_ids,
                extra={"README.md": _card(config, model), RECEIPT: huggingface.to_json(receipt)},
                progress=advance,
            )
    _show(target)
    return target


def _occupied(target: Path, receipt: dict[str, Any]) -> bool:
    """Whether `target` is this very conversion; a UserError where it is something else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if (target / RECEIPT).is_file():
        there = read_json(target / RECEIPT)
        if there == receipt:
            return True
        differing = ", ".join(f"{key} ({there.get(key)} there, {value} now)" for key, value in receipt.items() if there.get(key) != value)
        raise UserError(f"target={target} holds another conversion: {differing}; give another target, or delete that folder")
    raise UserError(f"target={target} is {'not empty' if target.is_dir() else 'a file'}; give a folder that does not exist yet")


def _tensors(model: Pretrained) -> int:
    return sum(len(weight.tensors("huggingface")) for weight in names.weights(model.architecture).values())


def _card(config: Config, model: Pretrained) -> str:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), keep_trailing_newline=True)
    tokenizer = model.tokenizer
    question = [{"role": "user", "content": "Give three tips for staying healthy."}]
    return environment.get_template("card.md.jinja").render(
        target=config.target,
        license=config.license,
        source=config.source,
        origin=model.origin,
        fingerprint=model.fingerprint,
        dtype=config.dtype,
        millions=model.architecture.num_parameters / 1e6,
        sizes=list(to_mapping(model.architecture).items()),
        prompt=None if tokenizer.chat_template is None else tokenizer.render_chat(question),
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """Yields what is called after each tensor: it moves a bar, or where there is no terminal prints a line every 10 s."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    printed = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("tensors", total=total)

        def advance(name: str) -> None:
            nonlocal printed
            bar.advance(task)
            if bar.disable and time.monotonic() - printed > 10:
                printed = time.monotonic()
                console.print(f"{bar.tasks[task].completed:.0f} of {total} tensors", highlight=False)

        yield advance


def _show(target: Path) -> None:
    table = Table("file", "MB", "sha256", title=str(target), title_justify="left")
    table.columns[1].justify = "right"
    table.columns[2].overflow = "fold"
    for file in sorted(path for path in target.iterdir() if path.is_file()):
        table.add_row(file.name, f"{file.stat().st_size / 1e6:,.3f}", sha256(file))
    Console().print(table)
    console.print(f"chat with it: alpaca-jax serve model.source={target}", highlight=False, soft_wrap=True)
