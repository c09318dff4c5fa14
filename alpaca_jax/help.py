"""`--help`, read from the YAML in `configs/`, so that it can't differ from what runs."""

from collections.abc import Sequence
from pathlib import Path

import alpaca_jax
from alpaca_jax.catalog import Catalog, body, header
from alpaca_jax.config import directory

USAGE = """usage: alpaca-jax VERB [key=value ...] [--cfg] [-m] [--config-dir DIR]

  --help            with a verb: its groups, experiments, keys and examples
  --cfg             print the configuration the verb would run with, and stop
  -m, --multirun    run every combination of key=a,b,c, each in a folder of its own below dir
  --config-dir DIR  a folder of your own YAML, laid out like configs/, beside the packaged one
  --version"""


def overview(verbs: Sequence[str]) -> str:
    """Returns the help of the command itself."""
    described = [f"  {verb:<10}{header(directory() / f'{verb}.yaml')[0]}" for verb in verbs]
    return "\n".join([alpaca_jax.__doc__ or "", "", USAGE, "", "verbs:", *described, "", "start with: alpaca-jax recipe experiment=laptop"])


def verb_help(catalog: Catalog) -> str:
    """Returns the help of a verb: examples, groups, experiments, and every key with its default and comment."""
    groups, experiments = catalog.groups(), catalog.experiments()
    summary, *examples = [line for line in header(catalog.primary) if line]
    lines = [f"alpaca-jax {catalog.verb} [key=value ...]: {summary}", "", "examples:", *(f"  {line}" for line in examples)]
    lines += ["", "groups (GROUP=OPTION; * is the default):"] if groups else []
    choices = {
        f"{group}={option}{'*' if option == default else ''}": catalog.file(f"{group}/{option}.yaml")
        for group, default in groups.items()
        for option in catalog.options(group)
    }
    lines += _columns(choices)
    lines += ["", "experiments:" if experiments else "experiments: none"]
    lines += _columns({f"experiment={name}": file for name, file in experiments.items()})
    lines += ["", "keys and defaults (one inside a group is given with a dot: group.key=value):"]
    lines += [f"  {line}" for primary in catalog.primaries for line in body(primary)]
    for group, default in groups.items():
        lines += [f"  {group}:", *(f"    {line}" for line in body(catalog.file(f"{group}/{default}.yaml")))]
    return "\n".join(lines)


def _columns(described: dict[str, Path]) -> list[str]:
    """A line for each choice: its name, and the first line of its file's header."""
    width = 2 + max(map(len, described), default=0)
    return [f"  {choice:<{width}}{header(file)[0]}" for choice, file in described.items()]
