"""The tasks of lm-evaluation-harness: found by name without reading all 14,000 of them, with data from the hub or from local files."""

import contextlib
import difflib
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2

from alpaca_jax.errors import UserError, disk_is_full
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.harness import quiet
from alpaca_jax.scores.suites.twin import Twin

INSTALL = "pip install 'alpaca-jax[lm-eval]'"
NAMED = re.compile(rb"""^["']?(?:task|group|tag)["']?:[ \t]*["']?([\w.-]+)""", re.MULTILINE)
TRUST = "ALPACA_JAX_TRUST_TASKS"  # a variable, since an experiment of a stranger could set a key
TAGS = re.compile(rb"""^tag:[ \t]*\n((?:[ \t]*-[ \t]*\S+[ \t]*\n)+)""", re.MULTILINE)


def load(name: str, suite: SuiteConfig) -> Any:
    """Returns the suite's tasks as the harness's `TaskDict`, their data at hand.

    A UserError says which task there isn't, what isn't installed, or that the hub can't be reached, each with its remedy.
    """
    with explained(name, suite), quiet():
        manager = _manager(name, suite)
        if suite.data:
            _localise(manager.task_index, suite)
        return manager.load(list(suite.tasks))


def _manager(name: str, suite: SuiteConfig) -> Any:
    """A TaskManager whose index holds the suite's tasks and all that their groups consist of."""
    from lm_eval.tasks import TaskManager

    own = suite.folder and Path(suite.folder).expanduser()
    if own:
        if not own.is_dir():
            raise UserError(f"suites.{name}.folder={suite.folder}: there is no such folder")
        if os.environ.get(TRUST) != "1":
            raise UserError(
                f"suites.{name}.folder={suite.folder}: task YAML can run code of its own (!function, templates); read it, and say that you "
                f"trust it: export {TRUST}=1"
            )
        manager = TaskManager(include_path=own, include_defaults=False)
        if unknown := [task for task in suite.tasks if task not in manager.task_index]:
            raise _unknown(name, unknown[0], list(manager.task_index))
        return manager
    folders: set[Path] = set()
    while True:
        manager = TaskManager(include_path=sorted(folders), include_defaults=False)
        missing = [task for task in _reached(manager.task_index, suite.tasks) if task not in manager.task_index]
        if not missing:
            return manager
        homes = {task: _home(task, folders) for task in missing}
        if lost := [task for task, home in homes.items() if home is None]:
            raise _unknown(name, lost[0], list(_named()))
        folders |= {home for home in homes.values() if home}


def _reached(index: Any, names: Sequence[Any]) -> Iterator[str]:
    """These tasks, groups and tags, and the members of those that the index knows."""
    for each in names:
        name = each if isinstance(each, str) else each.get("task") or each.get("group")
        if not isinstance(name, str):  # a group that is written out within another
            yield from _reached(index, name or [])
            continue
        if name not in index and not isinstance(each, str) and "dataset_path" in each:  # so is a task
            continue
        yield name
        if entry := index.get(name):
            members = (entry.cfg or {}).get("task")
            yield from _reached(index, members if isinstance(members, list) else sorted(entry.tags) if entry.yaml_path is None else [])


def _root() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "tasks"


def _home(task: str, tried: set[Path]) -> Path | None:
    """The folder of the harness in which a task is: one that its name begins with, or else the one whose files name it."""
    words, root = task.split("_"), _root()
    likely = (root / "_".join(words[:count]) for count in range(len(words), 0, -1))
    found = next((folder for folder in likely if folder.is_dir() and folder not in tried), None) or _named().get(task)
    return None if found in tried else found


def _named() -> dict[str, Path]:
    """The folder of each task, group and tag that a file of the harness names."""
    root, found = _root(), dict[str, Path]()
    for file in sorted(root.rglob("*.yaml")):
        content, home = file.read_bytes(), root / file.relative_to(root).parts[0]
        tags = [word.strip(b" \t-\"'") for block in TAGS.findall(content) for word in block.splitlines()]
        for name in (*NAMED.findall(content), *tags):
            found.setdefault(name.decode(), home)
    return found


def _unknown(name: str, task: str, known: Sequence[str]) -> UserError:
    close = difflib.get_close_matches(task, known, n=3, cutoff=0.6)
    hint = f"; did you mean {', '.join(close[:-1])}{' or ' if close[1:] else ''}{close[-1]}?" if close else ""
    return UserError(f"suites.{name}.tasks: there is no task {task!r}{hint}")


def _localise(index: Any, suite: SuiteConfig) -> None:
    """Gives the tasks in the index the user's files in the place of the hub's."""
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(str(suite.data)).expanduser()
    for task in dict.fromkeys(_reached(index, suite.tasks)):
        entry = index[task]
        if entry.yaml_path is None or entry.kind.name != "TASK":
            continue
        config = load_yaml(entry.yaml_path)
        entry.cfg, entry.yaml_path = Twin(folder, config, suite.shots(config.get("num_fewshot"))).config(), None


@contextlib.contextmanager
def explained(name: str, suite: SuiteConfig) -> Iterator[None]:
    """The errors of the harness and of the hub in one line each, with a remedy."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f"suites.{name} needs {error.name}, which isn't installed: {INSTALL}") from error
    except OSError as error:  # whatever goes wrong between here and the hub
        if disk_is_full(error):
            raise
        remedy = f"give suites.{name}.data=FOLDER, with FOLDER/CONFIG/SPLIT.jsonl (FOLDER/SPLIT.jsonl) in the columns of that data set"
        raise UserError(f"suites.{name}: its data can't be had from the hub ({_short(error)}); {remedy}") from error
    except (LookupError, TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        if type(error) is LookupError:  # NLTK's
            resource = re.search(r"nltk\.download\('([\w-]+)'\)", str(error))
            remedy = f"; get it: python -m nltk.downloader {resource[1]}" if resource else ""
            raise UserError(f"suites.{name}: NLTK's data are missing{remedy}") from error
        hint = f"; do the files in {suite.data} have the columns of the hub?" if suite.data else ""
        raise UserError(f"suites.{name}: lm-evaluation-harness can't run it: {type(error).__name__}: {_short(error)}{hint}") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
