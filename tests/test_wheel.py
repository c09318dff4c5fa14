"""The wheel and the sdist, tried from outside the checkout: what a user of `pip install` gets."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.prove.tiny import SIZES, write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("alpaca_jax", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "source"  # setuptools writes beside what it builds
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(copy)], check=True, capture_output=True
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """A folder that holds the unpacked wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)], check=True)
    return folder


def _outside(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    # -P keeps the folder we are in, and PYTHONPATH puts the wheel before an editable install.
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "alpaca_jax", *arguments]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


def test_wheel_and_sdist_hold_every_yaml_and_data_file(built):
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    yamls = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "alpaca_jax").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {f"alpaca_jax/{name}" for name in yamls} | data <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        assert yamls | data <= {name.partition("/")[2] for name in archive.getnames()}


def test_help_from_outside_the_checkout(installed, tmp_path):
    assert "recipe" in _outside(installed, tmp_path, "--help").stdout
    text = _outside(installed, tmp_path, "train", "--help").stdout
    assert "experiment=laptop" in text
    code = "import alpaca_jax.config as c; print(c.directory())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(installed / "alpaca_jax" / "configs")


def test_a_tiny_train_step_from_outside_the_checkout(installed, tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    records = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} it is."} for n in range(8)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    architecture = [f"model.architecture.{key}={value}" for key, value in SIZES.items()]
    _outside(
        installed, tmp_path, "train", "model=tiny", *architecture, "model.tokenizer=tokenizer", "data.records=records.jsonl",
        "data.cache=cache", "batch.examples=4", "batch.sequence_length=256", "data.max_length=256", "steps=1", "dir=run",
    )  # fmt: skip
    (line,) = (tmp_path / "run" / "train" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
    assert 0 < json.loads(line)["loss"] < 20
