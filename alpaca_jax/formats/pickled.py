"""Files that torch.save wrote (`pytorch_model.bin`, Meta's `.pth`), read as data: code in a pickle is never run."""

import pickle
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.names import Index

# In earlier versions, a file could make `weights_only=True` run its code (CVE-2025-32434) or corrupt memory (CVE-2026-24747).
SAFE_TORCH = (2, 10)
DTYPES = ("float64", "float32", "float16", "bfloat16")
_REMAP = 32 << 20  # bytes; a model may be in eight files, each with a map of its own


class _File:
    """An open file and its tensors.

    torch maps a file that is a zip archive, and the touched pages count as the process's memory as long as the map exists; torch offers no
    `madvise`. So the file is mapped anew after every 32 MB. A file written before torch 1.6 is no archive and can't be mapped: all of it
    is in memory while any of its tensors is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapped = _is_archive(path)
        self.tensors = _tensors(path, self.mapped)
        self._touched = 0

    def piece(self, name: str, index: Index) -> Any:
        """A copy of a part of a tensor, row by row."""
        torch = _torch(self.path)
        self.tensors = self.tensors or _tensors(self.path, self.mapped)
        tensor = self.tensors[name].detach()
        piece = tensor[index].clone(memory_format=torch.contiguous_format)
        self._touched += tensor[index[:1]].nbytes  # the pages of whole rows, even where only some columns are read
        if self.mapped and self._touched > _REMAP:
            self.tensors, self._touched = {}, 0
        return piece


class PickledTensor(NamedTuple):
    """A tensor of a file that has not been read yet."""

    file: _File
    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def header(path: Path) -> dict[str, PickledTensor]:
    """Returns the tensors of a file by name.

    A UserError where torch is not installed, or the file is damaged, contains code (which is not run) or holds anything but tensors.
    """
    file = _File(path)
    stored = {}
    for name, tensor in file.tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES or str(tensor.layout) != "torch.strided":
            raise UserError(
                f"{path}: {name} is stored as {dtype} ({tensor.layout}); only dense {', '.join(DTYPES)} can be read: give the full weights"
            )
        stored[name] = PickledTensor(file, name, tuple(tensor.shape), dtype, tensor.nbytes)
    return stored


def read(stored: PickledTensor, index: Index = ()) -> np.ndarray:
    """Returns the piece `index` of a tensor and copies nothing else of the file."""
    import torch

    piece = stored.file.piece(stored.name, index)
    if stored.dtype == "bfloat16":  # torch can't convert it to numpy
        return piece.view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return piece.numpy()


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _tensors(path: Path, mapped: bool) -> dict[str, Any]:
    torch = _torch(path)
    try:
        if mapped:
            _check_archive(path)
        content = torch.load(path, weights_only=True, mmap=mapped, map_location="cpu")
    except pickle.UnpicklingError as error:
        # The message gives the reason after advice to run the file's code.
        reason = " ".join(str(error).rpartition("error:")[2].partition("Check the documentation")[0].split())
        raise UserError(
            f"{path} holds more than tensors; loading it would run the code in it, which is never done ({reason}); "
            "give a model that is saved as safetensors"
        ) from error
    except Exception as error:  # RuntimeError, OSError, EOFError, IndexError and others, depending on the damage
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} is not a whole torch file ({reason}); download it again") from error
    whole = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)] if whole else ["it"]
    if others:
        raise UserError(f"{path} is not a dictionary of tensors ({', '.join(others[:5])} is not one); save the model's state_dict() only")
    return content


def _check_archive(path: Path) -> None:
    """A ValueError where the archive unpacks to more than its own size: torch packs nothing, and would unpack it into memory."""
    with zipfile.ZipFile(path) as archive:
        size, own = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if size > own:
        raise ValueError(f"it has {own:,} bytes and claims to hold {size:,}")


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a torch pickle, and torch is not installed: `pip install torch`, or give a model that is saved as safetensors"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise UserError(
            f"{path} is a pickle, and torch {torch.__version__} might run the code in it: `pip install -U torch` "
            f"({'.'.join(map(str, SAFE_TORCH))} or later), or give a model that is saved as safetensors"
        )
    return torch
