"""Files that grow, on object stores, where nothing is appended: they grow on a disk and are put whole, now and then and in the end."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import UserError

SECONDS = 60.0  # between two looks at what has grown
BYTES_A_SECOND = 1e6  # at most so much is put on the average: a large file goes less often


class Spool:
    """A local `folder` (default: a temporary one) whose files are put below `remote` under the same names, by a thread and by `flush`.

    A put that fails is tried again at the next look, after one warning; what the last one, in `close`, can't put stays on the disk.
    """

    def __init__(self, remote: Path, warn: Callable[[str], None], seconds: float = SECONDS, folder: Path | None = None) -> None:
        self.remote = remote
        self.folder = Path(tempfile.mkdtemp(prefix="alpaca-jax-spool-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._warn, self._warned, self._seconds = warn, False, seconds
        self._put: dict[str, tuple[int, int]] = {}  # what each file was when it was put
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def fetch(self, name: str) -> None:
        """Copies what the store has under that name, if it has it, into the folder; what a killed process left there beyond it stays."""
        with storage.told(self.remote):
            try:
                content = (self.remote / name).read_bytes()
            except FileNotFoundError:
                return
        path = self.folder / name
        if path.is_file() and path.read_bytes().startswith(content):
            return
        path.write_bytes(content)
        self._put[name] = _state(path)

    def flush(self) -> None:
        """Puts what has grown; returns when it is there, or has failed."""
        self._try()

    def close(self) -> None:
        """Puts what has grown and deletes the folder; a UserError says where the files are if that fails."""
        self._ended.set()
        self._thread.join()
        try:
            self._put_all()
        except Exception as error:
            raise UserError(f"{storage.explain(self.remote, error) or error}; what could not be put lies in {self.folder}") from error
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        wait = self._seconds
        while not self._ended.wait(wait):
            wait = max(self._seconds, self._try() / BYTES_A_SECOND)

    def _try(self) -> int:
        try:
            return self._put_all()
        except Exception as error:  # a store that is away for a while ends no training
            if not self._warned:
                self._warned = True
                self._warn(f"{storage.explain(self.remote, error) or error}; tried again every {self._seconds:.0f} s")
            return 0

    def _put_all(self) -> int:
        """The bytes that it put."""
        total = 0
        with self._lock:
            for path in sorted(self.folder.rglob("*")):
                name = str(path.relative_to(self.folder))
                if not path.is_file() or path.name.startswith(".") or self._put.get(name) == (state := _state(path)):
                    continue
                content = path.read_bytes()
                with storage.told(self.remote):
                    (self.remote / name).write_bytes(content)
                self._put[name] = state  # of before it was read: what has come since goes with the next
                total += len(content)
        return total


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
