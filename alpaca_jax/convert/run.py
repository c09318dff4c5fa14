"""Reads a model of any format and writes it in another; the target appears whole or not at all."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from alpaca_jax import grammar, lock
from alpaca_jax.convert import card, merging, outputs, verify
from alpaca_jax.convert.config import Config
from alpaca_jax.convert.outputs import RECEIPT, Output, TensorRow
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained, writing
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.gguf import reader as gguf
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.tensors import abbreviated
from alpaca_jax.progress import ProgressBar
from alpaca_jax.rundir import read_json
from alpaca_jax.terminal import Console

# A name is printed as it is: neither `[draft]` in it nor `:smile:` is markup.
console, tables = (Console(stderr=stderr, markup=False, emoji=False) for stderr in (True, False))


def run(config: Config) -> Path:
    """Converts `config.source` and returns the target; keeps a target that already holds the same conversion of the same weights.

    A UserError where the source can't be read, the target holds anything else, or `verify` finds that they differ.
    """
    if not config.dry_run:
        check_target(config)
    model = pretrained.open(ModelConfig(source=config.source, base=config.base, cache=config.cache, tokenizer=config.tokenizer))
    opened, model = model, merging.chosen(config, model)
    output = outputs.plan(config, model)
    _introduce(config, model)
    if config.dry_run:
        read = [TensorRow(name, tensor.shape, tensor.dtype, tensor.nbytes) for name, tensor in model.stored.items()]
        _show_tensors(f"would be read from {config.source}", read)
        _show_tensors(f"would be written to {config.target}", output.tensors)
        return output.path
    receipt: dict[str, Any] = {
        "source": card.bare(config.source),
        "base": config.base and card.bare(config.base),
        "identity": model.identity,
        "kind": config.kind,
    }
    receipt |= {"dtype": config.dtype or model.dtype, "license": config.license}
    if model.adapted is not None:
        receipt |= {"merge": config.merge, "merge_into": config.merge_into}
    if _occupied(output.path, receipt):
        console.print(f"{config.target} holds this conversion already", highlight=False)
    else:
        if model.adapted is not None and model.adapted.quantised and outputs.kind(config, model) != "peft" and config.heldout:
            merging.compare(config, opened, console)
        with lock.target(output.path, "convert"):
            _write(output, receipt)
    if config.verify:
        alone = outputs.kind(config, model) == "peft"  # its base is read from its own file
        verify.compare(config, merging.original(model) if alone else model, output.path)
    _show(output)
    return output.path


def _write(output: Output, receipt: dict[str, Any]) -> None:
    """Writes the target, unless another process has finished it meanwhile."""
    if _occupied(output.path, receipt):
        return
    start = time.monotonic()
    with ProgressBar("tensors", len(output.tensors), console=console) as progress:
        output.write(receipt, lambda name: progress.advance())
    seconds, size = time.monotonic() - start, sum(tensor.nbytes for tensor in output.tensors)
    console.print(f"{size / 1e9:,.2f} GB of weights in {seconds:,.1f} s", highlight=False)


def _introduce(config: Config, model: Pretrained) -> None:
    """Prints which formats were recognised."""
    a = model.architecture
    size = f"{a.family}, {a.num_parameters / 1e6:,.1f} M parameters, {model.dtype}"
    guessed = "" if config.to else "; give to= for another format"
    lines = [f"source: {model.format} ({size})", *model.notes, *outputs.rounding(config, model)]
    lines.append(f"target: {outputs.NAMES[outputs.kind(config, model)]}{guessed}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def check_target(config: Config) -> None:
    """Raises a UserError where the target is of the wrong kind, or can't be written."""
    target = Path(config.target).expanduser()
    if config.kind == "gguf" and target.is_dir():
        raise UserError(f"target={config.target} is a folder, and a GGUF file is one file: give target={target / 'model.gguf'}")
    if _free(target):
        writing.check_writable(target)


def _free(target: Path) -> bool:
    """Whether there is nothing at `target`, or only an empty folder or an unfinished conversion; a UserError where nobody may look."""
    try:
        return not target.exists() or (target.is_dir() and all(map(writing.unfinished, target.iterdir())))
    except OSError as error:
        raise UserError(f"target={target} can't be read ({error.strerror}); give another target") from error


def _occupied(target: Path, receipt: dict[str, Any]) -> bool:
    """Whether `target` holds this conversion already; a UserError where it holds anything else."""
    if _free(target):
        return False
    previous = gguf.receipt(target) if receipt["kind"] == "gguf" else read_json(target / RECEIPT) if (target / RECEIPT).is_file() else None
    if not isinstance(previous, dict):
        raise UserError(f"target={target} is {'not empty' if target.is_dir() else 'a file'}; give one that does not exist yet")
    if previous == receipt:
        return True
    differing = ", ".join(f"{key} ({previous.get(key)} there, {value} now)" for key, value in receipt.items() if previous.get(key) != value)
    raise UserError(f"target={target} holds another conversion: {differing}; give another target, or delete this one")


def _show_tensors(title: str, tensors: Iterable[TensorRow]) -> None:
    """Prints a row for each tensor, and a single one for the same tensor of all layers."""
    table = Table("tensor", "shape", "dtype", "MB", title=title, title_justify="left")
    table.columns[3].justify = "right"
    tensors = list(tensors)
    grouped: dict[tuple[str, ...], list[TensorRow]] = {}
    for tensor in tensors:
        pattern = ".".join("*" if part.isdigit() else part for part in tensor.name.split("."))
        grouped.setdefault((pattern, str(tensor.shape), tensor.dtype), []).append(tensor)
    for (_, _, dtype), group in grouped.items():
        (name,) = abbreviated(tensor.name for tensor in group)
        table.add_row(name, " x ".join(map(str, group[0].shape)), dtype, f"{sum(tensor.nbytes for tensor in group) / 1e6:,.3f}")
    table.add_section()
    table.add_row(f"{len(tensors):,} tensors", "", "", f"{sum(tensor.nbytes for tensor in tensors) / 1e6:,.3f}")
    tables.print(table)


def _show(output: Output) -> None:
    table = Table("file", "MB", title=str(output.path), title_justify="left")
    table.columns[1].justify = "right"
    files = [output.path] if output.path.is_file() else sorted(path for path in output.path.iterdir() if path.is_file())
    for file in files:
        table.add_row(file.name, f"{file.stat().st_size / 1e6:,.3f}")
    tables.print(table)
    command = grammar.command("serve", {"model.source": str(output.path)})
    console.print(f"chat with it: {command}", highlight=False, soft_wrap=True)
