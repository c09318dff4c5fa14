"""What is printed or written: control characters of a stranger's text become visible escapes, values of secret variables are masked."""

import os
import re

# Control characters but tab and newline, those that reorder a line, and halves of surrogate pairs, which no terminal can encode.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SECRET_NAME = re.compile(r"(^|_)(API_?KEY|ACCESS_KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH)(_|$)", re.IGNORECASE)
SHORTEST = 8  # characters of a secret's value; a shorter one would be masked inside of ordinary words
_named: set[str] = set()


def visible(text: str) -> str:
    """Returns `text` with control characters as escapes such as \\x1b; tab and newline stay."""
    return CONTROLS.sub(lambda match: _escaped(ord(match[0])), text)


def add_secret(name: str) -> None:
    """Says that the environment variable `name` holds a secret, whatever it is called."""
    _named.add(name)


def masked(text: str) -> str:
    """Returns `text` with the value of each environment variable that holds a secret replaced by [NAME]."""
    for value, name in _secrets():
        if value in text:
            text = text.replace(value, f"[{name}]")
    return text


def _escaped(number: int) -> str:
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _secrets() -> list[tuple[str, str]]:
    """(value, name) of each secret, longest first: one may be a part of another."""
    named = [(value, name) for name, value in os.environ.items() if name in _named or SECRET_NAME.search(name)]
    return sorted(
        ((value, name) for value, name in named if len(value) >= SHORTEST and not _is_path(value)), key=lambda pair: -len(pair[0])
    )


def _is_path(value: str) -> bool:
    return "/" in value and os.path.exists(value)
