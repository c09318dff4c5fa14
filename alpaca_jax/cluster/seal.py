"""A seal on a job: it was launched by this user, with the key in the user's own configuration folder, and not changed since.

A job.json says what to run. One that came with somebody else's folder would run that person's command, so without a valid seal it is only
shown. The key is made at the first launch; it is a secret of this user's, and nobody needs to know it.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "alpaca_jax"
FILE = "seal.key"
KEY_BYTES = 32


def made(value: Mapping[str, Any]) -> str:
    """Returns the seal of a JSON value, "" where this user has no folder for a key."""
    key = _key(create=True)
    return "" if key is None else _seal(key, value)


def holds(seal: str, value: Mapping[str, Any]) -> bool:
    """Whether `seal` was made of this value with this user's key."""
    key = _key(create=False)
    return key is not None and hmac.compare_digest(seal.encode(), _seal(key, value).encode())


def _seal(key: bytes, value: Mapping[str, Any]) -> str:
    return hmac.new(key, json.dumps(value, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key(create: bool) -> bytes | None:
    """The user's key; None where there is none, or somebody else could have written or read it."""
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
        path = (home if home.is_absolute() else Path.home() / ".config") / FOLDER / FILE
        if create and not path.exists():
            _create(path)
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            own = state.st_uid == os.getuid() and not stat.S_IMODE(state.st_mode) & 0o077
            key = file.read(KEY_BYTES + 1)
    except (OSError, RuntimeError):  # no such folder, or no home
        return None
    return key if own and len(key) == KEY_BYTES else None


def _create(path: Path) -> None:
    """Puts a new key in place, whole or not at all; of two processes the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
