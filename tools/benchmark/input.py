"""How long until the batches are ready? All 52,002 Alpaca records, from the file to all batches of the first of three epochs.

Ours: `load_examples` and `Batches`, 128 examples a step in rows of 2048; cold (empty cache) and warm (second start). Peers:
- published: as in Stanford's script. Prompt, and prompt + response, are tokenized one by one by the class behind `use_fast=False`, the
  labels are masked by the prompt's length, and batches of 4 are padded to their longest. transformers 5 no longer has a slow LLaMA
  tokenizer, so its SentencePiece base class, which was that tokenizer's class too, is used.
- published, fast: the same script with what transformers 5 returns for `use_fast=False`: the Rust tokenizer, still one text at a time.
- trl: `datasets.map` over all cores in batches, then TRL's best-fit packing into rows of 2048. If they aren't installed, --install-trl
  puts them into a temporary folder; otherwise this peer is skipped.
Each start is its own process. Imports are timed separately and not part of any figure. Finally prints one JSON line: `ours` is cold,
`peer` is published. Run from the root: python -m tools.benchmark.input
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

from alpaca_jax.tensorflow import SETTINGS
from tools.benchmark import alpaca, turns

EXAMPLES, LENGTH, EPOCHS, MAX_LENGTH, THEIR_BATCH = 128, 2048, 3, 512, 4
PROMPT = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
PROMPT_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
Marks = dict[str, Any]  # seconds since the end of the imports


def main() -> None:
    """Starts each contestant in its own process, prints the times and the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, help="only this many")
    parser.add_argument("--skip", nargs="*", default=[], choices=["published", "published-fast", "trl"], help="peers to leave out")
    parser.add_argument("--install-trl", action="store_true", help="with pip, for this run only")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        print(json.dumps(CONTESTANTS[arguments.contestant](arguments.folder)))
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        selected = json.loads((alpaca.folder() / alpaca.RECORDS).read_bytes())[: arguments.records]
        (folder / alpaca.RECORDS).write_text(json.dumps(selected))
        (folder / "tokenizer.model").write_bytes((alpaca.folder() / alpaca.TOKENIZER).read_bytes())
        results = {name: start("ours", folder) for name in ("ours, cold", "ours, warm")}
        peers = [peer for peer in ("published", "published-fast", "trl") if peer not in arguments.skip]
        if "trl" in peers and (reason := no_trl(folder / "packages" if arguments.install_trl else None)):
            turns.console.print(f"trl is left out: {reason}")
            peers.remove("trl")
        results |= {peer: start(peer, folder) for peer in peers}
    report(results, len(selected))


def no_trl(target: Path | None) -> str | None:
    """Why TRL can't take part, or None; installs it with its requirements into `target`, if one is given."""
    lacking = [name for name in ("datasets", "trl") if importlib.util.find_spec(name) is None]
    if lacking and target is None:
        return f"{' and '.join(lacking)} not installed (--install-trl)"
    if lacking:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), "--constraint", "constraints.txt"]
        for packages in (["datasets"], ["--no-deps", "trl", "accelerate"]):
            turns.console.print(f"installing {packages[-1]}")
            done = subprocess.run([*pip, *packages], capture_output=True, text=True)
            if done.returncode:
                return f"pip could not install it ({done.stderr.strip().splitlines()[-1]})"
    return None


def start(contestant: str, folder: Path) -> Marks:
    """The measurements of a contestant in a fresh process."""
    turns.console.print(f"{contestant}: started")
    command = [sys.executable, "-W", "ignore", "-m", "tools.benchmark.input", "--contestant", contestant, "--folder", str(folder)]
    path = os.pathsep.join([str(folder / "packages"), os.environ.get("PYTHONPATH", "")]) if contestant == "trl" else None
    environment = os.environ | SETTINGS | ({"PYTHONPATH": path} if path else {})
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    marks = json.loads(output.splitlines()[-1])
    turns.console.print(f"{contestant}: {marks['ready']:.2f} s, and {marks['imports']:.2f} s for the imports")
    return marks


def report(results: dict[str, Marks], number: int) -> None:
    """Prints the table and the JSON line."""
    columns = ("imports", "dataset", "first batch", "ready")
    rows = [[name, *(f"{marks[column]:.2f}" for column in columns)] for name, marks in results.items()]
    turns.table(f"{number:,} records to batches: seconds since the imports", ["", *columns], rows)
    cold, warm = results["ours, cold"], results["ours, warm"]
    published = results.get("published")
    more: dict[str, Any] = {"records": number, "cold": round(cold["ready"], 3), "warm": round(warm["ready"], 3)}
    more |= {"warm_first_batch": round(warm["first batch"], 3), "utilisation": cold["utilisation"]}
    more |= {name: round(results[name]["ready"], 3) for name in ("published-fast", "trl") if name in results}
    more |= {f"{name}_version": number for name, number in results.get("trl", {}).get("versions", {}).items()}
    packages = ("tensorflow-datasets", "sentencepiece", "tokenizers", "transformers", "torch")
    print(turns.result("input", cold["ready"], published and published["ready"], "s", packages, **more))


def ours(folder: Path) -> Marks:
    """From the records to the batches of the first epoch, through the store in `folder`/cache."""
    mark = marker()
    import tensorflow  # noqa: F401 - tf.data builds the batches ahead

    from alpaca_jax.data import builder
    from alpaca_jax.data.config import BatchConfig, DataConfig
    from alpaca_jax.data.pipeline import make_batches
    from alpaca_jax.tokenizer import Tokenizer

    mark("imports")
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    config = DataConfig(cache=str(folder / "cache"), max_length=MAX_LENGTH)
    examples = builder.load_examples(config, folder / alpaca.RECORDS, tokenizer).examples["train"]
    mark("dataset")
    batches = make_batches(examples, BatchConfig(examples=EXAMPLES, sequence_length=LENGTH), seed=0, epochs=EPOCHS)
    count = slots = tokens = 0
    for batch in batches.stream(0, batches.steps_per_epoch):
        if not count:
            mark("first batch")
        count += 1
        slots, tokens = slots + batch["segments"].size, tokens + int((batch["segments"] > 0).sum())
    assert count == batches.steps_per_epoch
    return mark("ready") | {"utilisation": round(tokens / slots, 4)}


def published(folder: Path, fast: bool = False) -> Marks:
    """As in Stanford's script; see the docstring of this file."""
    mark = marker()
    import torch
    import transformers

    mark("imports")
    transformers.utils.logging.set_verbosity_error()
    tokenizer = their_tokenizer(folder, fast)

    def ids(text: str) -> torch.Tensor:
        return tokenizer(text, return_tensors="pt", padding="longest", max_length=MAX_LENGTH, truncation=True).input_ids[0]

    examples = []
    for record in json.loads((folder / alpaca.RECORDS).read_bytes()):
        prompt = prompt_of(record)
        whole, length = ids(prompt + record["output"] + tokenizer.eos_token), len(ids(prompt))
        labels = whole.clone()
        labels[:length] = -100
        examples.append((whole, labels))
    mark("dataset")

    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    for first in range(0, len(order), THEIR_BATCH):
        some = [examples[index] for index in order[first : first + THEIR_BATCH]]
        inputs, labels = (
            torch.nn.utils.rnn.pad_sequence([each[part] for each in some], batch_first=True, padding_value=padding)
            for part, padding in ((0, tokenizer.pad_token_id), (1, -100))
        )
        _ = {"input_ids": inputs, "labels": labels, "attention_mask": inputs.ne(tokenizer.pad_token_id)}
        if not first:
            mark("first batch")
    return mark("ready")


def published_fast(folder: Path) -> Marks:
    """The same with the Rust tokenizer."""
    return published(folder, fast=True)


def their_tokenizer(folder: Path, fast: bool) -> Any:
    """LLaMA's tokenizer in transformers, in Rust or on SentencePiece, with the [PAD] that Stanford's script adds."""
    import transformers

    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    if fast:
        return transformers.LlamaTokenizer.from_pretrained(folder, use_fast=False, **tokens)
    return transformers.SentencePieceBackend(vocab_file=str(folder / "tokenizer.model"), special_tokens_pattern="bos", **tokens)


def trl(folder: Path) -> Marks:
    """`datasets.map`, then TRL's best-fit packing, then numpy arrays of 8 rows."""
    mark = marker()
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets"), "TOKENIZERS_PARALLELISM": "false"}
    import datasets
    import numpy as np
    import transformers
    from trl import __version__, pack_dataset

    mark("imports")
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    tokenizer = their_tokenizer(folder, fast=True)

    def tokenized(some: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        records = [dict(zip(some, values, strict=True)) for values in zip(*some.values(), strict=True)]
        prompts = tokenizer([prompt_of(record) for record in records]).input_ids
        answers = tokenizer([record["output"] + tokenizer.eos_token for record in records], add_special_tokens=False).input_ids
        both = list(zip(prompts, answers, strict=True))
        return {
            "input_ids": [(prompt + answer)[:MAX_LENGTH] for prompt, answer in both],
            "completion_mask": [([0] * len(prompt) + [1] * len(answer))[:MAX_LENGTH] for prompt, answer in both],
        }

    dataset = datasets.load_dataset("json", data_files=str(folder / alpaca.RECORDS), split="train")
    dataset = dataset.map(tokenized, batched=True, num_proc=turns.num_cores(), remove_columns=dataset.column_names)
    mark("dataset")
    packed = pack_dataset(dataset, LENGTH, "bfd").shuffle(seed=0)
    for first in range(0, len(packed), 8):
        rows = packed[first : first + 8]
        arrays = {name: np.zeros((8, LENGTH), np.int32) for name in ("input_ids", "completion_mask", "position_ids")}
        for row, (ids, mask, lengths) in enumerate(zip(rows["input_ids"], rows["completion_mask"], rows["seq_lengths"], strict=True)):
            arrays["input_ids"][row, : len(ids)], arrays["completion_mask"][row, : len(ids)] = ids, mask
            arrays["position_ids"][row, : len(ids)] = np.concatenate([np.arange(length) for length in lengths])
        if not first:
            mark("first batch")
    return mark("ready") | {"versions": {"datasets": datasets.__version__, "trl": __version__}}


def prompt_of(record: dict[str, str]) -> str:
    """A record in Stanford's template, up to the response."""
    if record.get("input"):
        return f"{PROMPT_INPUT}### Instruction:\n{record['instruction']}\n\n### Input:\n{record['input']}\n\n### Response:"
    return f"{PROMPT}### Instruction:\n{record['instruction']}\n\n### Response:"


def marker() -> Callable[[str], Marks]:
    """A function that records the seconds so far under a name and returns all records; "imports" restarts the clock."""
    marks: Marks = {}
    start = time.perf_counter()

    def mark(name: str) -> Marks:
        nonlocal start
        marks[name] = time.perf_counter() - start
        if name == "imports":
            start = time.perf_counter()
        return marks

    return mark


CONTESTANTS = {"ours": ours, "published": published, "published-fast": published_fast, "trl": trl}

if __name__ == "__main__":
    main()
