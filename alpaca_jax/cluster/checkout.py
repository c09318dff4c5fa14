"""What a launch from a changed checkout ran: said to the person, and kept as a diff beside the logs."""

import subprocess
from pathlib import Path

from alpaca_jax import rundir

FILE = "checkout.diff"
CODE = ("alpaca_jax", "configs", "launch", "pyproject.toml")  # what runs; a user's notes beside it are not copied into a run


def write(folder: Path, package: Path | None = None) -> str:
    """Writes the diff of a changed checkout to `folder`; returns what to tell the person, "" for a clean one or an installed wheel.

    `package` is a folder of the checkout's code, this package's own where it isn't given.
    """
    package = package or Path(__file__).resolve().parents[1]
    root = _git(package, "rev-parse", "--show-toplevel").strip()
    if not root or not _git(package, "ls-files", str(package)):  # installed below somebody else's repository
        return ""
    top = Path(root)
    paths = [name for name in CODE if (top / name).exists()]
    diff = _git(top, "diff", "HEAD", "--", *paths)
    new = _git(top, "ls-files", "--others", "--exclude-standard", "--", *paths).splitlines()
    diff += "".join(_git(top, "diff", "--no-index", "--", "/dev/null", name) for name in new)
    if not diff:
        return ""
    commit = _git(top, "rev-parse", "HEAD").strip()
    rundir.write_atomic(folder / FILE, f"# {top} at commit {commit}, changed\n{diff}")
    return f"the checkout {top} differs from its commit {commit[:12]}: the diff is in {folder / FILE}"


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; "" where there is no git or no repository (`git diff --no-index` answers 1 where it finds a difference)."""
    try:
        found = subprocess.run(["git", "--no-optional-locks", "-C", folder, *arguments], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.decode(errors="replace") if found.returncode in (0, 1) else ""
