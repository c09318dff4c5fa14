"""What the folders of YAML offer a verb: its keys, groups and experiments."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

EXPERIMENT = "experiment"  # the group whose options hold one file a verb


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What the YAML folders offer a verb; where two have a file, the first folder wins."""

    verb: str
    folders: Sequence[Path]

    @property
    def primary(self) -> Path:
        """The verb's own file."""
        return self.file(f"{self.verb}.yaml")

    @property
    def base(self) -> str:
        """The verb whose keys and experiments this one takes over: the other primary that heads its defaults list; else the verb itself."""
        return next((entry for entry in self._defaults(self.primary) if isinstance(entry, str) and entry != "_self_"), self.verb)

    @property
    def primaries(self) -> list[Path]:
        """The files that hold the verb's keys: its base's, if it has one, and its own."""
        return [*([self.file(f"{self.base}.yaml")] if self.base != self.verb else []), self.primary]

    def file(self, name: str) -> Path:
        """The first file of that name, such as "mesh/fsdp.yaml"."""
        return next(folder / name for folder in self.folders if (folder / name).is_file())

    def groups(self) -> dict[str, str | None]:
        """The verb's groups and the default option of each (None: the verb's own YAML has the group's defaults)."""
        return {group: option for group, option in self._chosen() if group != EXPERIMENT and "@" not in group}

    def lists(self) -> dict[str, str]:
        """The verb's keys that take several files of a folder, each under a name of its own, and the folder: suites, of suite/."""
        return {key: folder for folder, at, key in (group.partition("@") for group, _ in self._chosen()) if at}

    def all_groups(self) -> set[str]:
        """The groups of every verb."""
        return {path.name for folder in self.folders for path in folder.iterdir() if path.is_dir()} - {EXPERIMENT}

    def options(self, group: str) -> list[str]:
        """The options of a group, sorted."""
        return sorted({file.stem for folder in self.folders for file in (folder / group).glob("*.yaml")})

    def experiments(self) -> dict[str, Path]:
        """The experiments that have a file for the verb, or for its base."""
        files: dict[str, Path] = {}
        for folder in self.folders:
            for file in sorted((folder / EXPERIMENT).glob(f"**/{self.base}.yaml")):
                files.setdefault(file.parent.relative_to(folder / EXPERIMENT).as_posix(), file)
        return files

    def _chosen(self) -> Iterator[tuple[str, Any]]:
        for entry in (entry for primary in self.primaries for entry in self._defaults(primary)):
            yield from entry.items() if isinstance(entry, dict) else ()

    @staticmethod
    def _defaults(primary: Path) -> list[Any]:
        import yaml

        return yaml.safe_load(primary.read_text("utf-8"))["defaults"]


def header(path: Path) -> list[str]:
    """Returns the comment lines at the head of a YAML file, without `#` and without Hydra's directive; at least one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text("utf-8-sig", "replace").splitlines())
    return [line.removeprefix("#").strip() for line in lines if not line.startswith("# @package")] or [""]


def body(path: Path) -> list[str]:
    """Returns the lines of a YAML file without its header, its defaults list, comments at the margin and empty lines."""
    lines, in_defaults = [], False
    for line in path.read_text("utf-8-sig", "replace").splitlines():
        in_defaults = line.startswith("defaults:") or (in_defaults and line.startswith(" "))
        if line and not in_defaults and not line.startswith("#"):
            lines.append(line)
    return lines
