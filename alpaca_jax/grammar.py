"""How a value is written so that Hydra's grammar reads it as it is."""

import re
from typing import Any


def quoted(text: str) -> str:
    """Returns `text` in quotes."""
    # Inside quotes a backslash is literal, except before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text) + "'"


def written(value: Any) -> str:
    """Returns a number, truth value, null, text, list or mapping of those; the grammar has no quotes around a key."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
