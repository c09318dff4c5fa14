"""Headers of GGUF files, well-made ones against the `gguf` package, and those that claim what the file doesn't hold."""

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.gguf import layout

ARRAY, STRING, UINT8, UINT32 = 9, 8, 0, 4


def _text(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def _key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _tensor(name: str = "norm", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _file(path: Path, keys: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: int = 64, version: int = 3) -> Path:
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join((*keys, *tensors)) + bytes(data))
    return path


def test_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "whole.gguf", "llama")
    writer.add_custom_alignment(64)
    for number, add in enumerate((writer.add_uint8, writer.add_int8, writer.add_uint16, writer.add_int16, writer.add_uint32)):
        add(f"number.{number}", 7)
    writer.add_int64("negative", -5)
    writer.add_uint64("large", 1 << 60)
    writer.add_float32("float", 0.1)
    writer.add_float64("double", 0.1)
    writer.add_bool("true", True)
    writer.add_string("text", "naïve 北京")
    for name, values in {"texts": ["a", "", "ü"], "numbers": [1, -2], "floats": [0.5, 1.5], "truths": [True, False]}.items():
        writer.add_array(name, values)
    writer.add_tensor("one", np.arange(3, dtype=np.float32))
    writer.add_tensor("two", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header, tensors = layout.parts(tmp_path / "whole.gguf")
    theirs = gguf.GGUFReader(tmp_path / "whole.gguf")
    assert header == {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    for tensor in theirs.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        assert tensors[tensor.name] == (int(tensor.data_offset), shape, tensor.tensor_type, int(tensor.n_bytes))
    assert len(tensors) == 2


FAR = (1 << 64) - 32  # as a signed number, below zero
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a later version": ({"version": 9}, "its version is 9"),
    "the first version": ({"version": 1}, "its version is 1"),
    "an array of a billion numbers": ({"keys": (_key("a", ARRAY, struct.pack("<IQ", UINT8, 10**9)),)}, "more than 2,000,000 values"),
    "an array below zero": ({"keys": (_key("a", ARRAY, struct.pack("<IQ", UINT32, FAR)),)}, "more than 2,000,000 values"),
    "an array of empty texts": (
        {"keys": (_key("a", ARRAY, struct.pack("<IQ", STRING, 3_000_000)),), "data": 24_000_000}, "more than 2,000,000 values"),
    "many arrays": (
        {"keys": tuple(_key(f"a{n}", ARRAY, struct.pack("<IQ", UINT8, 10**6) + bytes(10**6)) for n in range(3))}, "more than 2,000,000"),
    "nested arrays": ({"keys": (_key("a", ARRAY, struct.pack("<IQ", ARRAY, 1000)),), "data": 10**6}, "the type 9, which is nested"),
    "an unknown type": ({"keys": (_key("a", 77, b""),)}, "the type 77, which is not known"),
    "a text below zero": ({"keys": (_key("a", STRING, struct.pack("<Q", FAR)),)}, "its header points to byte"),
    "a long header": ({"keys": (_key("a", STRING, struct.pack("<Q", 65 << 20)),), "data": 66 << 20}, "more than 67,108,864 bytes"),
    "a key twice": ({"keys": (_key("a", UINT8, b"\0"),) * 2}, "the key 'a' twice"),
    "no UTF-8": ({"keys": (_key(b"\xff", UINT8, b"\0"),)}, "utf-8"),
    "a surrogate": ({"keys": (_key("a", STRING, _text(b"\xed\xa0\x80")),)}, "utf-8"),
    "an alignment of 0": ({"keys": (_key("general.alignment", UINT32, struct.pack("<I", 0)),)}, "general.alignment is 0"),
    "an odd alignment": ({"keys": (_key("general.alignment", UINT32, struct.pack("<I", 3)),)}, "general.alignment is 3"),
    "an offset that wraps": ({"tensors": (_tensor(offset=FAR),)}, "its tensor 'norm' at byte 18,446,744,073,709,551,"),
    "an offset beyond the end": ({"tensors": (_tensor(offset=1 << 20),)}, "its tensor 'norm' at byte"),
    "sizes whose product wraps": ({"tensors": (_tensor(shape=(1 << 32, 1 << 32, 4)),)}, "its tensor 'norm' at byte"),
    "a size below zero": ({"tensors": (_tensor(shape=(FAR, 4)),)}, "its tensor 'norm' at byte"),
    "no dimensions": ({"tensors": (_tensor(shape=()),)}, "has 0 dimensions"),
    "many dimensions": ({"tensors": (_text("norm") + struct.pack("<I", 1 << 31),)}, "has 2,147,483,648 dimensions"),
    "an unknown kind": ({"tensors": (_tensor(kind=99),)}, "of the type 99, which is not known"),
    "rows of half a block": ({"tensors": (_tensor(kind=8, shape=(16, 2)),)}, "no whole number of Q8_0's blocks"),
    "a tensor twice": ({"tensors": (_tensor(), _tensor())}, "the tensor 'norm' twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_header_may_not_claim(case: str, tmp_path: Path) -> None:
    made, message = HOSTILE[case]
    file = _file(tmp_path / "hostile.gguf", **made)
    before = time.process_time()
    with pytest.raises(UserError) as caught:
        pretrained.open(file)
    assert time.process_time() - before < 2
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(("place", "what"), [(8, "tensors"), (16, "keys")])
@pytest.mark.parametrize("count", [10**8, 1 << 63, (1 << 64) - 1])
def test_counts_that_the_file_is_too_short_for(place: int, what: str, count: int, tmp_path: Path) -> None:
    file = _file(tmp_path / "hostile.gguf")
    content = bytearray(file.read_bytes())
    content[place : place + 8] = struct.pack("<Q", count)
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"and claims {count:,} {what}"):
        pretrained.open(file)


def test_big_endian_files_and_parts_of_split_ones(tmp_path: Path) -> None:
    big = tmp_path / "big.gguf"
    big.write_bytes(struct.pack(">4sIQQ", b"GGUF", 3, 0, 0) + bytes(64))
    with pytest.raises(UserError, match=r"big\.gguf is a big-endian file: convert it with"):
        pretrained.open(big)
    split = tuple(_key(f"split.{name}", 2, struct.pack("<H", value)) for name, value in (("no", 1), ("count", 3)))
    with pytest.raises(UserError, match=r"part\.gguf: part 2 of 3 of a split file: join them"):
        pretrained.open(_file(tmp_path / "part.gguf", split))


def test_the_factors_of_rope_are_few(tmp_path: Path) -> None:
    keys = (_key("general.architecture", STRING, _text("llama")),)
    with pytest.raises(UserError, match=r"rope_freqs.weight has the shape \[10000000\]"):
        pretrained.open(_file(tmp_path / "m.gguf", keys, (_tensor("rope_freqs.weight", (10**7,)),), data=4 * 10**7 + 64))
