"""How a value is written so that Hydra's grammar reads it as it is, and a command so that it can be pasted into a shell."""

import re
import shlex
from collections.abc import Mapping
from typing import Any


def quoted(text: str) -> str:
    """Returns `text` in quotes."""
    # Inside quotes a backslash is literal, except before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text) + "'"


def word(text: str) -> str:
    """Returns `text` so that the grammar reads it as this text: in quotes where it needs them."""
    return text if re.fullmatch(r"[\w./:+=@~%-]+", text) else quoted(text)


def command(verb: str, settings: Mapping[str, str]) -> str:
    """Returns `alpaca-jax VERB key=value ...` with its values as texts, quoted for the grammar and for a shell."""
    return " ".join(["alpaca-jax", verb, *(_shell(f"{key}={word(value)}") for key, value in settings.items())])


def _shell(text: str) -> str:
    """The text as one word of a shell, in double quotes where it holds single ones and nothing that is special inside double ones."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def written(value: Any) -> str:
    """Returns a number, truth value, null, text, list or mapping of those; the grammar has no quotes around a key."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
