"""Composes a verb's settings from the packaged YAML, the user's own folder and the words of a command."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from alpaca_jax import config as configuration
from alpaca_jax.composition import files, references
from alpaca_jax.errors import UserError
from alpaca_jax.grammar import quoted
from alpaca_jax.masking import masked

LONGEST = 600  # characters of an error: Hydra repeats the whole value


@contextlib.contextmanager
def initialized(verb: str) -> Iterator[None]:
    """Within it Hydra composes from the packaged YAML; its errors become a UserError."""
    files.register()
    try:
        with initialize_config_dir(str(configuration.directory()), version_base="1.3", job_name=verb):
            yield
    except HydraException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(_short(error)) from error


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Hydra says some of a user's mistakes in defaults lists and overrides by a plain ValueError; it becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, AttributeError, AssertionError, OmegaConfBaseException) as error:
        raise UserError(_short(error)) from error


def _short(error: Exception) -> str:
    """Hydra's message in one line, without signs that the user didn't write."""
    said = " ".join(masked(str(error)).split()).replace("++", "")
    return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"


def compose(verb: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of a verb as a plain mapping, with all references written out."""
    with initialized(verb), explained():
        composed = hydra_compose(verb, list(overrides))
    return references.resolved(composed)


def own_folder(folder: Path) -> str:
    """The override that has Hydra look into a user's folder of YAML too."""
    return f"hydra.searchpath=[{quoted(f'file://{folder}')}]"
