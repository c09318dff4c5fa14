"""The compilation cache that all verbs share, so that a program is compiled once on a machine and read from the disk after that.

JAX keeps the cache; this module says where it is and what goes into it. Both are set in the environment before JAX is imported, so that
child processes use the same cache. An entry that cannot be read (another process is writing it, or was killed while it did) costs a
warning, and the program is compiled again.
"""

import os
from pathlib import Path

FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def set_environment() -> None:
    """Points JAX to `~/.cache/alpaca_jax/xla`; what the user has set stays. Without a writable home there is no cache."""
    os.environ.setdefault(LEAST_SECONDS, "0.1")  # JAX's default of a second leaves out most of what a small model needs
    if FOLDER in os.environ:
        return
    folder = Path(os.path.expanduser("~/.cache/alpaca_jax/xla"))
    if not folder.is_absolute():  # this user has no home
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        os.environ[FOLDER] = str(folder)
