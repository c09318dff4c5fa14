"""Growing files for object stores, which can't append: they grow on a disk and are uploaded whole, periodically and at the end."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from alpaca_jax import storage
from alpaca_jax.errors import UserError

SECONDS = 60.0  # between two checks for files that have grown
BYTES_PER_SECOND = 1e6  # the most to upload on average: large files are uploaded less often


class Spool:
    """A local `folder` (default: a temporary one) whose files a thread, and `flush`, upload to `remote` under the same names.

    A failed upload is retried at the next check, after one warning; files that `close` can't upload stay on the disk.
    """

    def __init__(self, remote: Path, warn: Callable[[str], None], seconds: float = SECONDS, folder: Path | None = None) -> None:
        self.remote = remote
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="alpaca-jax-spool-")) if folder is None else folder
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            where, variable = error.filename or folder or tempfile.gettempdir(), "TMPDIR" if folder is None else "HOME"
            raise UserError(
                f"{where}: can't be written ({error.strerror}), and what grows for {remote} grows on this machine first: "
                f"make room there, or set {variable} to a folder that can be written"
            ) from error
        self._warn, self._warned, self._seconds = warn, False, seconds
        self._uploaded: dict[str, tuple[int, int]] = {}  # the state of each file when it was uploaded
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def fetch(self, name: str) -> None:
        """Copies the object of that name, if there is one, into the folder; lines that a killed process left here beyond it are kept."""
        with storage.explained(self.remote):
            try:
                content = (self.remote / name).read_bytes()
            except FileNotFoundError:
                return
        path = self.folder / name
        if path.is_file() and path.read_bytes().startswith(content):
            return
        path.write_bytes(content)
        self._uploaded[name] = _state(path)

    def flush(self) -> None:
        """Uploads what has grown; returns once it is uploaded, or has failed."""
        self._try()

    def close(self) -> None:
        """Uploads what has grown and deletes the folder; if that fails, a UserError says where the files are."""
        self._ended.set()
        self._thread.join()
        try:
            self._upload()
        except Exception as error:
            raise UserError(
                f"{storage.explain(self.remote, error) or error}; the files that could not be uploaded are in {self.folder}"
            ) from error
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        wait = self._seconds
        while not self._ended.wait(wait):
            wait = max(self._seconds, self._try() / BYTES_PER_SECOND)

    def _try(self) -> int:
        try:
            return self._upload()
        except Exception as error:  # an unreachable store must not end a training
            if not self._warned:
                self._warned = True
                self._warn(f"{storage.explain(self.remote, error) or error}; retrying every {self._seconds:.0f} s")
            return 0

    def _upload(self) -> int:
        """Returns the number of bytes uploaded."""
        total = 0
        with self._lock:
            for path in sorted(self.folder.rglob("*")):
                name = str(path.relative_to(self.folder))
                if not path.is_file() or path.name.startswith(".") or self._uploaded.get(name) == (state := _state(path)):
                    continue
                content = path.read_bytes()
                with storage.explained(self.remote):
                    (self.remote / name).write_bytes(content)
                self._uploaded[name] = state  # from before it was read: what was written since is uploaded next time
                total += len(content)
        return total


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
