"""The checkout that a job is launched from: what differs from its commit, and the archive that hosts without a shared disk get."""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from alpaca_jax import rundir
from alpaca_jax.errors import UserError

DIFF = "checkout.diff"
ARCHIVE = "code.tar.gz"
CODE = ("alpaca_jax", "configs", "launch", "pyproject.toml")  # what runs; a user's notes beside it are not copied into a run
PACKED = ("alpaca_jax", "configs", "constraints.txt", "pyproject.toml", "README.md", "LICENSE")  # what an installation needs


def root() -> Path:
    """Returns the folder of the checkout that this package is in; a UserError if it was installed from a wheel."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / "pyproject.toml").exists():
        raise UserError(f"{folder}: not a checkout, and the workers run the code of one; launch from a checkout (pip install --editable .)")
    return folder


def pack(target: Path) -> None:
    """Writes the archive of the checkout's code, as it is now, to `target`."""
    content, top = io.BytesIO(), root()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path in _packed(top):
            archive.add(path, str(path.relative_to(top)), recursive=False)
    rundir.write_atomic(target, content.getvalue())


def write_diff(folder: Path, package: Path | None = None) -> str:
    """Writes the diff of a modified checkout to `folder`; returns a notice for the user, "" for a clean one or an installed wheel.

    `package` is a folder of the checkout's code, this package's own by default.
    """
    package = package or Path(__file__).resolve().parents[1]
    repository = _git(package, "rev-parse", "--show-toplevel").strip()
    if not repository or not _git(package, "ls-files", str(package)):  # installed below somebody else's repository
        return ""
    top = Path(repository)
    paths = [name for name in CODE if (top / name).exists()]
    diff = _git(top, "diff", "HEAD", "--", *paths)
    new = _git(top, "ls-files", "--others", "--exclude-standard", "--", *paths).splitlines()
    diff += "".join(_git(top, "diff", "--no-index", "--", "/dev/null", name) for name in new)
    if not diff:
        return ""
    commit = _git(top, "rev-parse", "HEAD").strip()
    rundir.write_atomic(folder / DIFF, f"# {top} at commit {commit}, modified\n{diff}")
    return f"the checkout {top} differs from its commit {commit[:12]}: the diff is in {folder / DIFF}"


def _packed(top: Path) -> Iterator[Path]:
    for name in PACKED:
        path = top / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; "" without git or a repository (`git diff --no-index` answers 1 where it finds a difference)."""
    try:
        git = subprocess.run(["git", "--no-optional-locks", "-C", folder, *arguments], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return git.stdout.decode(errors="replace") if git.returncode in (0, 1) else ""
