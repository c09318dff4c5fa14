"""A folder with a byte tokenizer and a few records of each kind."""

import json

import pytest

from tools.prove.tiny import write_tokenizer

RECORDS = [
    {"instruction": "Say one.", "input": "", "output": "One it is."},
    {"instruction": "Say two.", "input": "in caps", "output": "TWO <it> is."},
    {"instruction": "Say one.", "input": "", "output": "One."},  # the same prompt
    {"instruction": "Say two.", "input": "in italics", "output": "*Two*"},  # the same instruction
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, ["Hi", "Yes?", "Bye", "So soon?"])]},  # noqa: B905
    *({"instruction": f"Count to {n}.", "input": "", "output": "1, 2 ... " * n} for n in range(3, 9)),
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    write_tokenizer(folder / "tokenizer", specials, bos_token="<s>", eos_token="</s>", add_bos_token=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return folder


@pytest.fixture
def tokenizer(files):
    from alpaca_jax.tokenizer import Tokenizer

    return Tokenizer.load(files / "tokenizer")
