"""A folder of a disk for the logs of answers whose own place may be an object store, to which no line can be appended."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.spool import Spool
from alpaca_jax.terminal import Console

SPOOL = "~/.cache/alpaca_jax/spool"


@contextlib.contextmanager
def growing(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """A context with `folder` itself where that is on a disk; else one of this machine, with the `wanted` files of `folder` in it.

    What has grown there is put into `folder` once a minute and in the end. A killed run goes on from all of it here, and from what was put
    elsewhere.
    """
    if not storage.is_remote(folder):
        yield folder
        return
    here = Path(SPOOL).expanduser() / hashlib.sha256(str(folder).encode()).hexdigest()[:24]
    spool = Spool(folder, lambda message: Console(stderr=True).print(message, highlight=False), folder=here)
    try:
        for name in sorted(filter(wanted, storage.objects(folder))):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            spool.fetch(name)
        yield here
    finally:
        spool.close()
