"""A user's own folder of YAML: broken files are named with their line, and none may speak of Hydra itself."""

import pytest
import yaml

from alpaca_jax import __main__ as cli

HEADER = "# @package _global_\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Writes an experiment (or another file) into a folder and composes with it; returns the exit code, stdout and stderr."""
    monkeypatch.setenv(cli.CONFIG_DIR, "")

    def run(text, *words, file="experiment/mine/train.yaml"):
        path = tmp_path / "own" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        code = cli.main(["train", "--cfg", "--config-dir", str(tmp_path / "own"), *(words or ["experiment=mine"])])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER + "data:\n\theldout: 3\n", "train.yaml, line 3: "),
        (HEADER + "epochs: [1\n", "train.yaml, line "),
        (HEADER + "epochs: 1\nepochs: 2\n", "train.yaml, line 3: found duplicate key epochs"),
        (HEADER + "- epochs\n", "train.yaml: settings are due here"),
        (HEADER + "epochs\n", "train.yaml: settings are due here"),
        ("epochs: 7\n", "train.yaml: its first line has to be '# @package _global_'"),
        ("# @package\nepochs: 7\n", "the first line of an experiment is '# @package _global_'"),
        (HEADER.encode() + b"dir: caf\xe9\n", "train.yaml: not YAML (line 2: not UTF-8"),
        (HEADER + "x: " + "[" * 5000 + "]" * 5000, "nested more than"),
        (
            HEADER
            + "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1 or '')] * 9)}]\n" for i in range(1, 9)),
            "aliases",
        ),
        (HEADER + "x: !!python/object/apply:os.system [true]\n", "not YAML"),
        (HEADER + "1: 2\n", "the key 1 is no name"),
        (HEADER + "null: 2\n", "is no name"),
        (HEADER + "hydra:\n  callbacks:\n    x: {_target_: os.system}\n", "train.yaml: hydra: a file gives the settings of a verb"),
        (HEADER + "hydra.callbacks.x: 1\n", "train.yaml: hydra.callbacks.x: a file gives"),
        (HEADER + "defaults:\n  - override /hydra/launcher: slurm\n", "train.yaml: hydra/launcher: a file gives"),
        (HEADER + "defaults:\n  - /optimizer@hydra.callbacks.x: adamw\n", "train.yaml: hydra.callbacks.x: a file gives"),
        (HEADER + "defaults: 3\n", "train.yaml: defaults: a list is due here"),
        (HEADER + "defaults: [null]\n", "train.yaml: defaults: a list is due here"),
        (HEADER + "defaults:\n  - {a: b, c: d}\n", "train.yaml: defaults: a list is due here"),
        (HEADER + "defaults:\n  - override /nothing: lion\n", "nothing"),
        (HEADER + "dir: !!timestamp x\n", "train.yaml: not YAML"),
        (HEADER + "dir: !!int ''\n", "train.yaml: not YAML"),
        (HEADER + "dir: !!bool x\n", "train.yaml: not YAML"),
        (HEADER + "defaults:\n  - /../../../etc/x\n", "rc"),
        (HEADER + "epochs: 2024-01-01\n", "epochs: input should be a valid number"),
        (HEADER + "epochs: !!binary aGVsbG8=\n", "epochs"),
        (HEADER + "dir: ${dir\n", "train.yaml: dir: ${dir is not understood"),
        (HEADER + "dir: " + "${" * 5000 + "\n", "is not understood"),
        (HEADER + "dir: ${dir}\n", "train.yaml: dir: refers to itself"),
        (HEADER + "data: ${model}\nmodel: ${data}\n", "refers to itself"),
    ],
)
def test_a_broken_experiment_is_2_with_file_and_line(run, text, said):
    code, _, error = run(text)
    assert code == 2
    assert said in error or said == "rc"


def test_a_sound_experiment(run):
    code, out, error = run(
        "\ufeff" + HEADER + "defaults:\n  - override /optimizer: lion\nepochs: 7\noptimizer: {learning_rate: 1e-4}\ndir: 2024-01-01\n"
    )
    assert code == 0, error
    mapping = yaml.safe_load(out)
    assert (mapping["epochs"], mapping["optimizer"]["name"], mapping["optimizer"]["learning_rate"]) == (7, "lion", 1e-4)
    assert mapping["dir"] == "2024-01-01"


def test_an_empty_experiment_changes_nothing(run):
    assert run(HEADER)[0] == 0


@pytest.mark.parametrize("file", ["hydra/sweeper/evil.yaml", "hydra/callbacks/evil.yaml"])
def test_a_group_of_hydras_own(run, file):
    group = file.rpartition("/")[0]
    code, _, error = run("_target_: os.system\n", f"{group}=evil", file=file)
    assert (code == 2 and "evil" in error) or "from the command line" in error


def test_an_option_with_a_package_of_hydras(run):
    code, _, error = run("# @package hydra.callbacks.x\n_target_: os.system\n", "optimizer=evil", file="optimizer/evil.yaml")
    assert code == 2 and "optimizer/evil.yaml: hydra.callbacks.x: a file gives the settings of a verb" in error
