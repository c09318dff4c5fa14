"""torch's files against torch itself; pickles with code in them, and files that are not whole."""

import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pickled

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")


@pytest.fixture
def tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    made: dict[str, Any] = {name: torch.randn(6, 4).to(getattr(torch, name)) for name in ("float32", "float16", "bfloat16", "float64")}
    shared = torch.arange(24.0).reshape(6, 4)
    return {**made, "rows": shared[2:4], "turned": shared.T, "parameter": torch.nn.Parameter(torch.randn(3)), "scalar": torch.tensor(5.0)}


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "old"])
def test_tensors_and_their_pieces(archive: bool, tensors: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=archive)
    stored = pickled.header(file)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = pickled.read(stored[name])
        assert stored[name].shape == found.shape == tuple(tensor.shape)
        assert stored[name].dtype == found.dtype.name == str(tensor.dtype).removeprefix("torch.")
        assert stored[name].nbytes == found.nbytes
        np.testing.assert_array_equal(found.astype(np.float64), tensor.detach().double().numpy())
        if tensor.ndim == 2:
            np.testing.assert_array_equal(pickled.read(stored[name], (slice(1, 3), slice(2, 4))), found[1:3, 2:4])
    found = pickled.read(stored["bfloat16"])
    found[:] = 0  # a copy: the file's own stays
    assert pickled.read(stored["bfloat16"]).any()


def test_the_map_is_let_go(tensors: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors, file)
    stored = pickled.header(file)
    expected = pickled.read(stored["float32"])
    assert stored["float32"].file.tensors
    monkeypatch.setattr(pickled, "_REMAP", 1)
    for _ in range(2):
        np.testing.assert_array_equal(pickled.read(stored["float32"]), expected)
        assert not stored["float32"].file.tensors


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("kind", ["archive", "old", "bare"])
def test_code_is_never_run(kind: str, tmp_path: Path) -> None:
    file, target = tmp_path / "pytorch_model.bin", tmp_path / "written"
    content = {"weight": torch.zeros(3), "code": _Evil(target)}
    if kind == "bare":
        file.write_bytes(pickle.dumps(content["code"], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "archive")
    with pytest.raises(UserError, match=r"pytorch_model\.bin .*never done.*safetensors"):
        pickled.header(file)
    assert not target.exists()
    if kind == "bare":
        pickle.loads(file.read_bytes())
        assert target.exists()  # it is a pickle that would have written


def test_damaged_files(tensors: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    for archive in (True, False):
        torch.save(tensors, file, _use_new_zipfile_serialization=archive)
        whole = file.read_bytes()
        for content in (whole[:-100], whole[: len(whole) // 2], b"", b"rubbish"):
            file.write_bytes(content)
            with pytest.raises(UserError, match=r"pytorch_model\.bin"):
                pickled.header(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "not a dictionary of tensors"),
        ({"model": {"a": 1}, "step": 3}, "model, step"),
    ],
)
def test_other_things_than_tensors(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(content, file)
    with pytest.raises(UserError, match=message):
        pickled.header(file)


def test_dtypes_that_no_model_has(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "m.bin")
    with pytest.raises(UserError, match="weight is stored as complex64"):
        pickled.header(tmp_path / "m.bin")
    for dtype in (torch.uint8, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn):  # quantised, as a rule
        torch.save({"weight": torch.zeros(2).to(dtype)}, tmp_path / "m.bin")
        with pytest.raises(UserError, match=r"weight is stored as .* give the full weights"):
            pickled.header(tmp_path / "m.bin")
    torch.save({3: torch.zeros(2)}, tmp_path / "m.bin")
    with pytest.raises(UserError, match="not a dictionary of tensors"):
        pickled.header(tmp_path / "m.bin")


def test_an_archive_that_unpacks_to_more_than_its_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(UserError, match=r"m\.bin is not a whole torch file .*claims to hold 1,048,576"):
        pickled.header(tmp_path / "m.bin")


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(2)}, file)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(UserError, match=r"torch 2\.9\.1 .*pip install -U torch"):
        pickled.header(file)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        pickled.header(file)
