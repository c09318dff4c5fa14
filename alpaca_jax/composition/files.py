"""The YAML files that Hydra composes: read within bounds, named with file and line where they are broken, and settings of a verb only."""

import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca_jax import documents
from alpaca_jax.catalog import EXPERIMENT
from alpaca_jax.composition import references
from alpaca_jax.composition.plugins import LAUNCHER
from alpaca_jax.errors import UserError

LARGEST = 2**20  # bytes of a file of settings
HEADER = "# @package _global_"
NO_HYDRA = "a file gives the settings of a verb; Hydra's own are given on the command line (hydra/launcher=NAME, hydra.launcher.KEY=VALUE)"


class SettingsFolder(FileConfigSource):
    """A folder of YAML, the packaged one or a user's, as Hydra sees it."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns the file's content and the package its header names; a UserError that says where it is broken."""
        file = Path(self.path) / self._normalize_file_name(config_path)
        if ".." in PurePosixPath(config_path).parts or not file.is_file():
            raise ConfigLoadError(f"Config not found : {file}")
        content = documents.read(file, LARGEST)
        header, value = self._header(file, content), documents.yaml_value(content, str(file))
        if not isinstance(value, dict | None):
            raise UserError(f"{file}: settings are due here, one KEY: VALUE a line")
        _check(file, PurePosixPath(config_path), value or {}, header.get("package"))
        try:
            references.check(value or {})
            # OmegaConf's own reader knows 1e-4 as a number, leaves dates as texts, and refuses a key that is there twice.
            config = OmegaConf.load(io.StringIO(content.decode("utf-8-sig"))) if value else OmegaConf.create({})
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{file}, line {line}: {error.problem}") from error
        except (OmegaConfBaseException, ValueError) as error:
            raise UserError(f"{file}: {str(error).splitlines()[0]}") from error
        return ConfigResult(config=config, path=f"{self.scheme()}://{self.path}", provider=self.provider, header=header)

    def _header(self, file: Path, content: bytes) -> dict[str, str | None]:
        try:
            return self._get_header_dict(content[:4096].decode(errors="replace").removeprefix("\ufeff"))
        except ValueError as error:
            raise UserError(f"{file}: {error}; the first line of an experiment is {HEADER!r}") from error


def register() -> None:
    """Has Hydra read every folder of YAML through `SettingsFolder`; repeated calls change nothing."""
    Plugins.instance()  # which registers Hydra's own reader
    SourcesRegistry.instance().types[SettingsFolder.scheme()] = SettingsFolder


def _check(file: Path, path: PurePosixPath, value: dict[Any, Any], package: str | None) -> None:
    """A UserError for a file that lacks the header of an experiment, or speaks of Hydra itself."""
    if path.parts[0] == EXPERIMENT and package != "_global_":
        raise UserError(f"{file}: its first line has to be {HEADER!r}; without it, its keys would be those of a group {EXPERIMENT!r}")
    if path.parts[0] == "hydra":
        if path.parent != PurePosixPath(LAUNCHER) or package is not None:
            raise UserError(f"{file}: {NO_HYDRA}")
        return
    for key in [*value, *([package] if package else []), *_named(file, value.get("defaults", []))]:
        if re.match(r"(_global_\.)?hydra\b", str(key)):
            raise UserError(f"{file}: {key}: {NO_HYDRA}")
        if not isinstance(key, str):
            raise UserError(f"{file}: the key {key!r} is no name; put it in quotes, if it should be one")


def _named(file: Path, defaults: Any) -> Iterator[str]:
    """The groups that a defaults list chooses from, and the packages it puts them into."""
    if not isinstance(defaults, list) or not all(isinstance(each, str) or (isinstance(each, dict) and len(each) == 1) for each in defaults):
        raise UserError(f"{file}: defaults: a list is due here, with one GROUP: OPTION an entry, such as '- override /optimizer: lion'")
    for entry in defaults:
        for key in entry if isinstance(entry, dict) else [entry]:
            words = re.sub(r"^\s*((override|optional)\s+)*/?", "", str(key))
            yield from words.split("@")
