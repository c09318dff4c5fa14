"""The code that a job runs on hosts which share no disk with the launcher: an archive of the checkout, packed once, at the launch."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax import rundir
from alpaca_jax.errors import UserError

FILE = "code.tar.gz"
PACKED = ("alpaca_jax", "configs", "constraints.txt", "pyproject.toml", "README.md", "LICENSE")  # what an installation needs


def checkout() -> Path:
    """Returns the checkout that this package is in; a UserError where it was installed from a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").exists():
        raise UserError(f"{root}: not a checkout, and the workers get the code of one; launch from a checkout (pip install --editable .)")
    return root


def pack(target: Path) -> None:
    """Writes the archive of the checkout's code as it is now to `target`."""
    root = checkout()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in _files(root):
            archive.add(path, str(path.relative_to(root)), recursive=False)
    rundir.write_atomic(target, content.getvalue())


def _files(root: Path) -> Iterator[Path]:
    for name in PACKED:
        top = root / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)
