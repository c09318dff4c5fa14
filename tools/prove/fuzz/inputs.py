"""The inputs of every verb that somebody else may have written, and the part of the verb that reads them."""

import contextlib
import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import yaml
from pyarrow import parquet
from safetensors.numpy import save_file

from alpaca_jax import __main__ as command_line
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import Job, State
from alpaca_jax.config import parse
from alpaca_jax.convert import run as convert
from alpaca_jax.convert.config import Config as ConvertConfig
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config as EvaluateConfig
from alpaca_jax.evaluate.settings import settle
from alpaca_jax.formats.huggingface import export
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.tensors import held
from alpaca_jax.generate import run as generate
from alpaca_jax.generate.config import Config as GenerateConfig
from alpaca_jax.inspect import run as inspect
from alpaca_jax.inspect.config import Config as InspectConfig
from alpaca_jax.jobs import run as jobs
from alpaca_jax.jobs.config import Config as JobsConfig
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.recipe import marker
from alpaca_jax.scores import runs
from alpaca_jax.serve import protocol
from alpaca_jax.tokenizer import Tokenizer
from tools.prove.tiny import SIZES, write_tokenizer
from tools.prove.tiny import record as instruction

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message.role + '\\n' + message.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
EXPERIMENT = "# @package _global_\n# A run of mine.\nepochs: 2\noptimizer:\n  learning_rate: 1e-4\nsamples:\n  prompts: [Hi]\n"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": "model.layers.*.self_attn.(q|v)_proj", "task_type": "CAUSAL_LM"}


@dataclasses.dataclass(frozen=True)
class Input:
    """Files that `read` takes from a copy of `folder`, whole as it is; `files` are those that get damaged."""

    verb: str
    name: str
    folder: Path
    files: Sequence[str]
    read: Callable[[Path], Any]
    writes: str | None = None  # what a refused input must not leave behind


def inputs(folder: Path) -> Iterator[Input]:
    """Makes every input below `folder`, each valid; the last ones need those before."""
    yield from _records(folder)
    yield from _models(folder)
    yield from _runs(folder)
    yield from _settings(folder)
    yield _answers(folder)


# --- records and tokenizers ----------------------------------------------------------------------------------------------------------


def _records(folder: Path) -> Iterator[Input]:
    rows = [instruction(number) for number in range(8)]
    chats = [
        {"messages": [{"role": role, "content": f"{role} {number}"} for role in ("system", "user", "assistant", "user", "assistant")]}
        for number in range(8)
    ]
    shared = [{"conversations": [{"from": "human", "value": f"Hi {number}"}, {"from": "gpt", "value": "Yes?"}]} for number in range(8)]
    contents: dict[str, str | bytes] = {
        "records.jsonl": _lines(rows[:3] + chats[:3] + shared[:3]),
        "records.json": json.dumps(rows, indent=1),
        "records.csv": "instruction,input,output\n" + "".join(f'Say {n}.,"a ""b""",{n}\n' for n in range(8)),
        "records.jsonl.gz": gzip.compress(_lines(rows).encode()),
        "records.jsonl.zst": _zstd(_lines(rows).encode()),
        "records.parquet": _parquet(rows),
    }
    for name, content in contents.items():
        home = folder / name
        write_tokenizer(home / "tokenizer", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
        (home / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        yield Input("inspect", name, home, [name], _inspecting(name))
    home = folder / "records.jsonl"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        yield Input("inspect", name, home, [f"tokenizer/{name}"], _inspecting("records.jsonl", "chat"))


def _inspecting(name: str, template: str = "alpaca") -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        data = {"records": str(folder / name), "cache": str(folder / "cache"), "template": template}
        model = {"architecture": SIZES, "tokenizer": str(folder / "tokenizer")}
        batch = {"examples": 1, "sequence_length": 512}
        return inspect.run(parse(InspectConfig, {"dir": str(folder / "out"), "model": model, "data": data, "batch": batch}))

    return read


def _zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _parquet(rows: Sequence[Any]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()


def _lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- models --------------------------------------------------------------------------------------------------------------------------


def _models(folder: Path) -> Iterator[Input]:
    source = folder / "huggingface"
    _write_model(source / "model")
    yield Input("convert", "config.json", source, ["model/config.json", "model/generation_config.json"], _converting("model"), "out")
    yield Input("convert", "safetensors", source, ["model/model.safetensors"], _converting("model"), "out")
    adapter = folder / "adapter"
    shutil.copytree(source, adapter)
    _write_adapter(adapter / "adapter")
    names = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    yield Input("convert", "adapter", adapter, names, _converting("adapter", base="model"), "out")
    for target in ("model.gguf", "model.orbax"):
        home = folder / target
        home.mkdir()
        with contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
            convert.run(ConvertConfig(dir=str(home), source=str(source / "model"), target=str(home / target)))
        files = [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if path.is_file() and path.stat().st_size < 2**20]
        yield Input("convert", target.split(".")[1], home, files, _converting(target), "out")


def _converting(source: str, base: str | None = None) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        laid_over = str(folder / base) if base else None
        return convert.run(ConvertConfig(dir=str(folder), source=str(folder / source), target=str(folder / "out"), base=laid_over))

    return read


def _write_model(folder: Path) -> None:
    write_tokenizer(folder, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    architecture, tokenizer = Architecture(**SIZES), Tokenizer.load(folder)
    chance = np.random.default_rng(0)
    arrays = {path: chance.normal(0, 0.02, weight.shape).astype(np.float32) for path, weight in weights(architecture).items()}
    model = Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=held(arrays),
        eos_ids=(tokenizer.eos_id,),
        source="random weights",
        files=(),
        format="random weights",
        dtype="float32",
    )
    shutil.rmtree(folder)
    export.export(folder, model)


def _write_adapter(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    heads = {"q": SIZES["num_heads"], "v": SIZES["num_kv_heads"]}
    pairs = {}
    for layer in range(SIZES["num_layers"]):
        for name, count in heads.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}_proj"
            pairs[f"{prefix}.lora_A.weight"] = np.ones((2, SIZES["hidden_size"]), np.float32)
            pairs[f"{prefix}.lora_B.weight"] = np.ones((count * SIZES["head_dim"], 2), np.float32)
    save_file(pairs, folder / "adapter_model.safetensors")


# --- runs and recipes -----------------------------------------------------------------------------------------------------------------


def _runs(folder: Path) -> Iterator[Input]:
    """A run that `evaluate` scores, and the marker of a recipe's stage."""
    home = folder / "run"
    shutil.copytree(folder / "model.orbax" / "model.orbax", home / "train")
    data = {"records": "records.jsonl", "template": "alpaca", "heldout": 2, "max_length": 256, "sources": {}, "on_error": "stop"}
    settings = {"dir": "run", "seed": 0, "data": data, "model": {"source": None, "architecture": SIZES}}
    (home / "train/config.yaml").write_text(yaml.safe_dump(settings))
    yield Input("evaluate", "config.yaml", home, ["train/config.yaml"], _settling)

    home = folder / "stages"
    home.mkdir()
    marker.Marker("train", ["train", "experiment=laptop"], "0" * 64, "1" * 64).write(home / "train.json")
    yield Input("recipe", "marker", home, ["train.json"], lambda copy: marker.read(copy / "train.json"))


def _settling(folder: Path) -> None:
    settle(parse(EvaluateConfig, {"dir": str(folder), "model": {}, "batch": {"examples": 1}}))
    run = runs.at(folder)
    assert run is not None
    run.records()
    list(runs.lineage(folder))


# --- settings, jobs, requests --------------------------------------------------------------------------------------------------------


def _settings(folder: Path) -> Iterator[Input]:
    home = folder / "experiment"
    file = "own/experiment/mine/train.yaml"
    (home / file).parent.mkdir(parents=True)
    (home / file).write_text(
        "# @package _global_\n# A run of mine.\nepochs: 2\noptimizer:\n  learning_rate: 1e-4\nsamples:\n  prompts: [Hi]\n"
    )
    yield Input("train", "experiment", home, [file], _composing)

    home = folder / "jobs"
    for name in ("job/logs/0", "job/train"):
        (home / name).mkdir(parents=True)
    job = Job(home / "job", ("alpaca-jax", "train", "dir=job"), "job")
    entry = record.renewed("local", job)
    entry.begin()
    entry.end(1)
    entry.settle(State.failed, "rank 0 ended with 1")
    (home / "job/train/metrics.jsonl").write_text(_lines([{"step": step, "loss": 1.0, "time": 1.0} for step in range(4)]))
    (home / "job/train/summary.json").write_text(json.dumps({"heldout_loss": 1.0, "heldout_step": 4, "step": 4}))
    (home / "job/logs/0/rank-0000.log").write_text("[alpaca-jax rank=0 host=h]\nTraceback (most recent call last):\nValueError: no\n")
    files = ["job/job.json", "job/train/metrics.jsonl", "job/train/summary.json", "job/logs/0/rank-0000.log"]
    yield Input("jobs", "job.json", home, files, _looking)

    home = folder / "request"
    home.mkdir()
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0.5, "stop": ["x"], "n": 2}
    (home / "body.json").write_text(json.dumps(chat))
    yield Input("serve", "request", home, ["body.json"], _asking)


def _composing(folder: Path) -> None:
    _checked(command_line.main(["train", "--cfg", "model=tiny", f"--config-dir={folder / 'own'}", "experiment=mine", f"dir={folder}/run"]))


def _looking(folder: Path) -> None:
    for action in ("status", "logs"):
        jobs.run(JobsConfig(dir=str(folder / "job"), action=action))


def _asking(folder: Path) -> None:
    try:
        protocol.parse(protocol.ChatRequest, (folder / "body.json").read_bytes())
    except protocol.ApiError as error:
        raise UserError(str(error)) from error


def _checked(code: int) -> None:
    if code == 2:
        raise UserError("exit code 2")
    assert code == 0, f"exit code {code}"


# --- answers of a teacher ------------------------------------------------------------------------------------------------------------


def _answers(folder: Path) -> Input:
    """A log of answers, its settings, and the user's own seed tasks, read again with replay=true."""
    from tests.scripted_teacher import scripted_teacher

    home = folder / "answers"
    home.mkdir()
    (home / "known.jsonl").write_text(_lines([{"instruction": f"Name {n} things that float."} for n in range(6)]))
    with scripted_teacher() as server, contextlib.redirect_stderr(None), contextlib.redirect_stdout(None):
        address = server.base_url
        generate.run(_generating(home, address))
    files = [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if path.is_file() and path.suffix in (".jsonl", ".json")]
    return Input("generate", "answers", home, files, lambda copy: generate.run(_generating(copy, address, replay=True)))


def _generating(folder: Path, address: str, replay: bool = False) -> GenerateConfig:
    prices = {"prompt": 0.0, "completion": 0.0, "source": "a server of this process"}
    teacher = {"base_url": address, "model": "m", "endpoint": "completions", "prices": prices}
    magpie = {"prefix": "<s>user\n", "stop": ["</s>"], "answer": "completions", "turn": "</s><s>assistant\n"}
    mapping = {"dir": str(folder / "run"), "teacher": teacher, "method": "magpie", "magpie": magpie, "count": 4, "replay": replay}
    return parse(GenerateConfig, mapping | {"decontaminate": [str(folder / "known.jsonl")]})
