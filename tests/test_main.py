import dataclasses
import errno
import importlib
import io
import os
import pwd
import shlex
import subprocess
import sys
import time
import typing

import pytest
import yaml
from huggingface_hub import constants

from alpaca_jax import __main__ as cli
from alpaca_jax import config as configuration
from alpaca_jax.catalog import Catalog, header
from alpaca_jax.data import built
from alpaca_jax.errors import Lost, Restart, UserError
from alpaca_jax.formats import source
from alpaca_jax.help import verb_help

SHIPPED = [
    *((verb, ()) for verb in cli.VERBS if verb != "recipe"),
    *(
        (file.stem, (f"experiment={file.parent.relative_to(configuration.directory() / 'experiment').as_posix()}",))
        for file in sorted((configuration.directory() / "experiment").glob("**/*.yaml"))
    ),
]

# What only the user knows: where the models and records of others lie.
NEEDED = {
    ("recipe", "experiment=frontier"): ["settings.llama_7b.model.source=x", "settings.llama_13b.model.source=x"],
    ("recipe", "experiment=frontier_small"): ["settings.davinci.records=x"],
    ("train", "experiment=compress"): ["model.source=x"],
}
ELSEWHERE = ("experiment", "teacher.slots")  # of a server of our own, not of a hosted teacher


def _config(verb, *overrides):
    command = cli._parse([verb, *overrides])
    mapping = cli._compose(command)
    return mapping, cli._config(command, mapping)


def _child(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "alpaca_jax", *arguments], capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(("verb", "overrides"), SHIPPED, ids=lambda value: value if isinstance(value, str) else "".join(value))
def test_every_verb_and_experiment_composes_into_its_config(verb, overrides):
    mapping, config = _config(verb, *overrides, *NEEDED.get((verb, *overrides), []))
    assert configuration.parse(type(config), configuration.to_mapping(config)) == config
    # The YAML is what a user reads (`VERB --help`): it holds every key, and each with its default.
    absent = [key for key in _absent(type(config), mapping) if not key.startswith(("mesh.", "stages.")) and key not in ELSEWHERE]
    assert not absent


@pytest.mark.parametrize(
    ("verb", "choice"),
    [
        (verb, f"{group}={option}")
        for verb in cli.VERBS
        for catalog in [Catalog(verb, [configuration.directory()])]
        for group in catalog.groups()
        for option in catalog.options(group)
        if group != "model" or verb == "train" or option in ("base", "smollm2", "llama_7b")  # the published sizes are all alike
    ],
)
def test_every_option_of_every_group_composes(verb, choice):
    needed = {"teacher=openai": ["teacher.model=x"], "teacher=endpoint": ["teacher.model=x", "teacher.base_url=http://host"]}
    needed["objective=distill"] = needed["objective=on_policy"] = ["objective.teacher=x"]
    needed["objective=grpo"] = ["objective.rewards.short.name=length", "objective.rewards.short.most=50"]
    for option, teacher in (("judge", "openai"), ("judge_endpoint", "endpoint")):
        needed[f"compare={option}"] = [f"compare.{word}" for word in needed[f"teacher={teacher}"]]
    if choice.startswith("compare=") and verb in ("train", "inspect"):
        needed[choice] = [*needed.get(choice, []), "evaluate_every=1", "answers.prompts=x", "compare.against=[reference]"]
    random = ["model.source=x"] if choice.startswith("model=") and choice != "model=smollm2" and verb != "train" else []
    mapping, _ = _config(verb, choice, *needed.get(choice, []), *random)
    group, _, option = choice.partition("=")
    assert (mapping[group] is None) == (option == "none")


@pytest.mark.parametrize(
    ("verb", "key", "folder"),
    [(verb, key, folder) for verb in cli.VERBS for key, folder in Catalog(verb, [configuration.directory()]).lists().items()],
)
def test_all_files_of_a_list_compose_into_it(verb, key, folder):
    options = Catalog(verb, [configuration.directory()]).options(folder)
    needed = {"evaluate": ["model.source=x"]}.get(verb, ["evaluate_every=1"])
    mapping, config = _config(verb, f"{key}=[{','.join(options)}]", *needed)
    assert list(mapping[key]) == options
    frozen = configuration.to_mapping(config)  # what a run keeps
    assert configuration.parse(type(config), frozen) == config


def _absent(cls, mapping, prefix=""):
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(mapping.get(name), dict):
            hint = configuration._named(hint).get(mapping[name].get("name"), hint)  # one of several, by its name
        if name not in mapping:
            yield prefix + name
        elif dataclasses.is_dataclass(hint) and isinstance(mapping[name], dict):
            yield from _absent(hint, mapping[name], f"{prefix}{name}.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "'trian' is not a verb; did you mean train?"),
        (["train", "optimizer.learnign_rate=1"], "optimizer.learnign_rate: there is no such key; did you mean learning_rate?"),
        (["train", "optimizr.learning_rate=1"], "optimizr: there is no such key; did you mean optimizer?"),
        (["train", "epochs=two"], "epochs: input should be a valid number"),
        (["train", "optimizer.betas=[0.9"], "optimizer.betas: input should be a valid tuple (got '[0.9')"),
        (["train", "batch.packing=paked"], "batch.packing: input should be 'packed' or 'none' (got 'paked')"),
        (["train", "experiment=lapto"], "experiment=lapto: there is no such experiment; did you mean laptop?"),
        (["train", "optimizer=adam"], "optimizer=adam: there is no such optimizer; did you mean adamw?"),
        (["train", "teacher=local"], "teacher=local: train has no group teacher"),
        (["train", "epochs"], "'epochs' is not of the form key=value"),
        (["train", "--epochs=3"], "'--epochs=3' is not an option"),
        (["train", "=3"], "'=3' is not of the form key=value"),
        (["train", "epochs=1,2"], "add --multirun"),
        (["train", "dir=${foo}"], "dir: Interpolation key 'foo' not found"),
        (["train", "--config-dir", "/does/not/exist"], "there is no such folder"),
        (["train", "dir=caf\udce9"], "'dir=caf\\udce9' is not UTF-8"),
        (["train", "-m", "epochs=1,two"], "epochs: input should be a valid number"),
        (["train", "-m", "epoch=1,2"], "epoch: there is no such key; did you mean epochs?"),
        (["generate", "teacher=openai"], "teacher.model: is needed and has no default; give teacher.model=VALUE"),
        (["recipe"], "stages: "),
    ],
)
def test_bad_input_is_2_and_one_clear_message(arguments, expected, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", _never)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def _never(command, config):
    raise AssertionError("the verb must not start")


def test_a_value_that_the_grammar_refuses_is_text():
    _, config = _config("train", "data.records=a (b=c'[.json")
    assert config.data.records == "a (b=c'[.json"


@pytest.mark.parametrize("name", ["a b.json", "it's", "back\\slash", "x=y", "dir/file[1].json", "(a", "{b"])
def test_odd_paths_arrive_unchanged(name):
    assert _config("train", f"data.records={name}")[1].data.records == name


def test_cfg_prints_what_would_run(capsys):
    assert cli.main(["train", "experiment=laptop", "seed=7", "--cfg"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 7
    assert printed["dir"] == "runs/laptop"
    assert printed["optimizer"]["learning_rate"] == 1e-4


def test_the_command_line_overrules_the_experiment():
    assert _config("train", "experiment=laptop", "epochs=5")[1].epochs == 5
    assert _config("train", "epochs=5", "experiment=laptop")[1].epochs == 5


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "hot.yaml").write_text("# Hot.\nname: adamw\nlearning_rate: 1.0\n")
    experiment = tmp_path / "experiment" / "mine" / "train.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\n# Mine.\nepochs: 7\n")
    arguments = ["optimizer=hot", "experiment=mine", "--config-dir", str(tmp_path)]
    _, config = _config("train", *arguments)
    assert (config.epochs, config.optimizer.learning_rate) == (7, 1.0)
    text = verb_help(cli._parse(["train", *arguments]).catalog)
    assert "optimizer=hot" in text
    assert "experiment=mine" in text


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (Restart("saved"), 200),
        (Lost("the teacher is gone"), 201),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file"), 2),
        (RuntimeError("DATA_LOSS: No space left on device"), 2),
        (RuntimeError("bug"), 1),
    ],
)
def test_exit_codes(raised, code, monkeypatch, capsys):
    def run(command, config):
        raise raised

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["train"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)


def test_help_lists_the_verbs_and_imports_nothing_heavy():
    heavy = ["jax", "flax", "tensorflow", "torch", "numpy", "pydantic", "hydra", "omegaconf", "openai", "rich"]
    code = f"import sys; from alpaca_jax.__main__ import main; print(main(sys.argv[1:]), sorted(set({heavy}) & set(sys.modules)))"
    for arguments in (["--help"], ["train", "--help"]):
        out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
        assert out.splitlines()[-1] == "0 []"
    assert all(f"\n  {verb}" in _child("--help").stdout for verb in cli.VERBS)


def test_help_takes_under_a_second():
    def seconds():
        start = time.perf_counter()
        assert _child("--help").returncode == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize("verb", cli.VERBS)
def test_verb_help_shows_groups_experiments_keys_and_three_examples(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    catalog = Catalog(verb, [configuration.directory()])
    assert text.count(f"  alpaca-jax {verb}") == 3
    assert all(f"  {group}={option}*" in text for group, option in catalog.groups().items() if option is not None)
    assert all(f"  experiment={name}" in text for name in catalog.experiments())
    assert all(f"\n  {key}:" in text for key in catalog.groups())
    assert all(f"\n  {key}=[{option}] " in text for key, folder in catalog.lists().items() for option in catalog.options(folder))
    assert "defaults:" not in text


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_examples_of_the_help_compose(verb):
    examples = [line for line in header(configuration.directory() / f"{verb}.yaml") if line.startswith("alpaca-jax")]
    assert len(examples) == 3
    for command in (cli._parse(shlex.split(example)[1:]) for example in examples):
        if not command.multirun:
            cli._config(command, cli._compose(command))


def test_no_verb_is_a_usage_error():
    result = _child()
    assert result.returncode == 2
    assert "verbs:" in result.stdout


def test_a_pipe_that_closes_is_quiet():
    result = subprocess.run(f"{sys.executable} -m alpaca_jax train --help | head -1", shell=True, capture_output=True, text=True)
    assert result.stderr == ""


def test_verbs_name_package_yaml_and_tests_alike():
    for verb in cli.VERBS:
        assert importlib.import_module(f"alpaca_jax.{verb}.config").Config
        assert (configuration.directory() / f"{verb}.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["finetune"], "'finetune' is not a verb; here it is train"),
        (["chat"], "here it is serve"),
        (["export"], "here it is convert"),
        (["lora"], "training them is not supported"),
        (["dpo"], "preferences and rewards are not supported"),
        (["train", "my.yaml"], "keep your settings in DIR/experiment/NAME/train.yaml, and give --config-dir DIR experiment=NAME"),
        (["train", "--config", "x"], "--config-dir DIR experiment=NAME"),
        (["train", "mine.jsonl"], "records are given as data.records=mine.jsonl"),
        (["train", "--learning_rate=1e-4"], "settings are given as key=value; here it is optimizer.learning_rate"),
        (["train", "--lr", "1e-4"], "here it is optimizer.learning_rate"),
        (["train", "lr=1"], "lr: there is no such key; here it is optimizer.learning_rate"),
        (["train", "optimizer.lr=1"], "optimizer.lr: there is no such key; here it is optimizer.learning_rate"),
        (["train", "batch_size=8"], "here it is batch.examples"),
        (["train", "gradient_checkpointing=true"], "here it is model.remat"),
        (["train", "gradient_accumulation_steps=8"], "here it is microbatches"),
        (["train", "num_epochs=8"], "here it is epochs"),
        (["train", "max_steps=8"], "here it is steps"),
        (["train", "output_dir=x"], "here it is dir"),
        (["train", "model_name_or_path=x"], "here it is model.source"),
        (["train", "dataset=x"], "here it is data.records"),
        (["train", "heldout=8"], "here it is data.heldout"),
        (["train", "use_lora=true"], "training them is not supported"),
        (["generate", "temperature=1"], "here it is sampling.temperature"),
        (["generate", "api_key=x"], "teacher.key_env=NAME says from which variable"),
        (
            ["train", "samples.prompts=Hello"],
            """a list is given in brackets, with quotes around its texts, as in 'samples.prompts=["one", "two"]'""",
        ),
    ],
)
def test_words_of_other_trainers_get_a_pointer(arguments, expected, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", _never)
    assert cli.main(arguments) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["KEY"],
        ["train", "KEY"],
        ["train", "--KEY"],
        ["train", "seed=KEY"],
        ["train", "KEY=1"],
        ["train", "optimizer=KEY"],
        ["train", "experiment=KEY"],
        ["train", "data.records=${KEY}"],
        ["train", "optimizer.betas=" + "x" * 70 + "KEY"],
        ["train", "--config-dir", "KEY"],
        ["train", "-m", "seed=KEY,1"],
        ["train", "--help", "experiment=KEY"],
        ["jobs", "dir=KEY"],
    ],
)
@pytest.mark.parametrize("name", ["WANDB_API_KEY", None])
def test_a_secret_in_a_wrong_place_is_not_repeated(arguments, name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    secret = "a-secret-0123456789" if name else "sk-proj-0123456789abcdef"
    if name:
        monkeypatch.setenv(name, secret)
    assert cli.main([argument.replace("KEY", secret) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert "0123456789" not in shown.out + shown.err
    assert not name or all("0123456789" not in file.read_text() for file in tmp_path.rglob("*.*"))


def test_cfg_masks_secrets(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-secret-0123456789")
    assert cli.main(["train", "data.records=a-secret-0123456789", "--cfg"]) == 0
    assert "records: [HF_TOKEN]" in capsys.readouterr().out


def test_control_characters_reach_no_terminal(capsys):
    assert cli.main(["train\x1b[31m"]) == 2
    assert cli.main(["train", "optimizer=\x1b[31m\x9b"]) == 2
    assert "\x1b" not in (error := capsys.readouterr().err) and "\x9b" not in error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_the_terminal_lacks_end_nothing(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    name = "runs/\N{SNOWMAN}é"
    assert cli.main(["train", "--cfg", f"dir={name}"]) == 0
    stream.flush()
    assert yaml.safe_load(stream.buffer.getvalue().decode(encoding))["dir"] == name  # as a recipe reads it
    assert cli._print("\N{SNOWMAN}") == 0
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"?\n")


def test_without_a_home_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", lambda command, config: built.cache_folders(config.data.cache) and 0)
    assert cli.main(["train", "data.cache=cache"]) == 0
    assert cli.main(["train"]) == 2
    assert "no home folder: give whole paths and data.cache=FOLDER" in capsys.readouterr().err
    assert cli.main(["train", "--config-dir", "~/own"]) == 2
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(UserError, match="give model.cache=FOLDER, or set HOME"):
        source.resolve("org/name")
    assert not list(tmp_path.iterdir())


def test_the_first_line_says_what_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda command, config: 0)
    monkeypatch.delitem(sys.modules, "jax")
    assert cli.main(["inspect"]) == 0
    assert capsys.readouterr().err.startswith("alpaca-jax inspect: importing JAX")


def test_help_with_an_experiment_shows_its_values():
    catalog = Catalog("train", [configuration.directory()])
    text = verb_help(catalog, ["experiment=laptop", "optimizer=muon"])
    keys = text[text.index("keys and values") :]
    assert "experiment=laptop:\n  All 30 layers" in text and "  it sets:\n    dir: runs/laptop\n    epochs: 2\n" in text
    assert "\n  epochs: 2\n" in keys and "\n    heldout: 24" in keys and "\n    learning_rate: 0.0001 # the peak" in keys
    assert "name: muon" in keys and "  dir: runs/laptop     # the run" in keys and "    max_tokens: 96" in keys
    assert text.index("optimizer:\n") < text.index("model=llama_7b")
    assert "keys and defaults" in verb_help(catalog)


def test_help_with_an_experiment_that_chooses_an_option(tmp_path):
    file = tmp_path / "experiment" / "mine" / "train.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\n# Mine.\ndefaults:\n  - override /optimizer: lion\nmodel: {remat: full}\n")
    text = verb_help(Catalog("train", [configuration.directory(), tmp_path]), ["experiment=mine"])
    assert "name: lion" in text and "remat: full " in text
    with pytest.raises(UserError, match="there is no such experiment; did you mean mine"):
        verb_help(Catalog("train", [configuration.directory(), tmp_path]), ["experiment=mien"])
