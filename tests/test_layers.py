import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "alpaca_jax").rglob("*.py"))


def test_imports_point_down():
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    result = subprocess.run([sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_is_listed_for_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in SOURCES}
    assert set(listed) - {"alpaca_jax.configs"} == {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_house_rules(path):
    text = path.read_text()
    assert text.count("\n") <= 400, "a file has one idea, and none has over 400 lines"
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                own = isinstance(node, ast.ImportFrom) and (node.level > 0 or (node.module or "").startswith("alpaca_jax"))
                assert not own, f"line {node.lineno}: an own import inside a function"


def test_training_imports_nothing_that_only_some_runs_need():
    needless = {"openai", "scipy.stats", "scipy.optimize", "rapidfuzz", "lm_eval"}
    code = f"import sys, alpaca_jax.train.run; print(sorted({needless} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip().endswith("[]"), result.stdout + result.stderr


def test_no_secret_place_for_what_has_no_name():
    assert not [path for path in SOURCES if path.stem in ("utils", "util", "helpers", "helper", "common", "misc")]


def test_constraints_hold_no_address_and_pin_exactly():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert not [line for line in lines if "://" in line or " @ " in line or "==" not in line]
