"""`--help`, read from the YAML in `configs/`, so that it can't differ from what runs."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import alpaca_jax
from alpaca_jax import documents
from alpaca_jax.catalog import EXPERIMENT, Catalog, body, header
from alpaca_jax.config import directory, suggestion
from alpaca_jax.errors import UserError

USAGE = """usage: alpaca-jax VERB [key=value ...] [--cfg] [-m] [--config-dir DIR]

  --help            with a verb: its examples, experiments, keys and groups
  --cfg             print the configuration the verb would run with, and stop
  -m, --multirun    run every combination of key=a,b,c, each in a folder of its own below dir
  --config-dir DIR  a folder of your own YAML, laid out like configs/, beside the packaged one
  --version"""


def overview(verbs: Sequence[str]) -> str:
    """Returns the help of the command itself."""
    described = [f"  {verb:<10}{header(directory() / f'{verb}.yaml')[0]}" for verb in verbs]
    return "\n".join([alpaca_jax.__doc__ or "", "", USAGE, "", "verbs:", *described, "", "start with: alpaca-jax recipe experiment=laptop"])


def verb_help(catalog: Catalog, words: Sequence[str] = ()) -> str:
    """Returns the help of a verb: examples, experiments, every key with its value and comment, and groups.

    The values are the defaults, or those of the experiment and the options of groups that `words` choose.
    """
    experiments = catalog.experiments()
    chosen = dict(word.partition("=")[::2] for word in words)
    groups = {group: chosen.get(group, option) for group, option in catalog.groups().items()}
    experiment = experiments[_known(EXPERIMENT, chosen[EXPERIMENT], experiments)] if EXPERIMENT in chosen else None
    values = _settings(experiment, groups) if experiment else {}
    summary, *examples = [line for line in header(catalog.primary) if line]
    lines = [f"alpaca-jax {catalog.verb} [key=value ...]: {summary}", "", "examples:", *(f"  {line}" for line in examples)]
    if experiment:
        lines += ["", f"experiment={chosen[EXPERIMENT]}:", *(f"  {line}" for line in header(experiment))]
        lines += ["  it sets:", *(f"    {line}" for line in body(experiment))]
    else:
        lines += ["", "experiments:" if experiments else "experiments: none"]
        lines += _columns({f"experiment={name}": file for name, file in experiments.items()})
    lines += ["", f"keys and {'values' if experiment else 'defaults'} (one inside a group is given with a dot: group.key=value):"]
    lines += [f"  {line}" for primary in catalog.primaries for line in _with(values, body(primary))]
    for group, option in groups.items():
        if option is None:  # its keys are among the verb's own
            continue
        file = catalog.file(f"{group}/{_known(group, option, catalog.options(group))}.yaml")
        lines += [f"  {group}:", *(f"    {line}" for line in _with(values.get(group), body(file)))]
    lines += ["", "groups (GROUP=OPTION; * is the default):"] if groups else []
    choices = {
        f"{group}={option}{'*' if option == default else ''}": catalog.file(f"{group}/{option}.yaml")
        for group, default in catalog.groups().items()
        for option in catalog.options(group)
    }
    lines += _columns(choices)
    for key, folder in catalog.lists().items():
        lines += ["", f"{key} ({key}=[NAME, ...]):"]
        lines += _columns({f"{key}=[{option}]": catalog.file(f"{folder}/{option}.yaml") for option in catalog.options(folder)})
    return "\n".join(lines)


def _known(group: str, choice: str, options: Collection[str]) -> str:
    if choice not in options:
        raise UserError(f"{group}={choice}: there is no such {group}{suggestion(choice, options)} (there are: {', '.join(options)})")
    return choice


def _settings(experiment: Path, groups: dict[str, str | None]) -> dict[str, Any]:
    """What an experiment's file sets; the options of groups that it chooses are put into `groups`."""
    settings = documents.yaml_value(documents.read(experiment), str(experiment))
    settings = settings if isinstance(settings, dict) else {}
    for entry in settings.get("defaults") or ():
        for group, option in entry.items() if isinstance(entry, dict) else ():
            if (name := str(group).removeprefix("override ").strip().removeprefix("/")) in groups:
                groups[name] = str(option)
    return settings


def _with(values: Any, lines: Sequence[str]) -> list[str]:
    """The lines of a YAML file, with `values` (nested as in the file) in place of its own numbers and words."""
    result, path = [], list[tuple[int, str]]()
    for line in lines:
        if match := re.fullmatch(r"( *)([\w.-]+): ([^ #\[{][^#]*?)( *#.*)?|( *)([\w.-]+):( *#.*)?", line):
            indent, key = len(match[1] or match[5] or ""), match[2] or match[6]
            path = [*(entry for entry in path if entry[0] < indent), (indent, key)]
            value = values
            for _, name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if match[3] and isinstance(value, str | int | float):
                new = f"{match[1]}{key}: {str(value).lower() if isinstance(value, bool) else value}"
                comment = (match[4] or "").lstrip()
                line = f"{new.ljust(len(line) - len(comment) - 1)} {comment}".rstrip()
        result.append(line)
    return result


def _columns(described: dict[str, Path]) -> list[str]:
    """A line for each choice: its name, and the first line of its file's header."""
    width = 2 + max(map(len, described), default=0)
    return [f"  {choice:<{width}}{header(file)[0]}" for choice, file in described.items()]
