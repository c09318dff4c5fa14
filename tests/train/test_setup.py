"""What is settled before a run begins: the template that `auto` stands for, which the run writes down."""

import json

from training import config

from alpaca_jax.config import to_mapping
from alpaca_jax.train import setup


def settled(files, folder, records, **data):
    made = config(files, folder)
    changed = {name: value for name, value in to_mapping(made)["data"].items() if name != "template"}
    return setup.settled(config(files, folder, data=changed | {"records": str(records)} | data)).data.template


def test_the_template_follows_the_records_and_a_named_one_stays(files, tmp_path):
    talk, text = tmp_path / "talk.jsonl", tmp_path / "text.jsonl"
    talk.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}))
    text.write_text(json.dumps({"text": "A text."}))
    instructions = tmp_path / "instructions.jsonl"
    instructions.write_text(json.dumps({"instruction": "Hi", "output": "Ho"}))
    cache = {"cache": str(tmp_path / "cache"), "heldout": 0}
    assert settled(files, tmp_path, instructions, **cache) == "alpaca"  # what a run of an earlier version has in its config.yaml
    assert settled(files, tmp_path, talk, **cache) in ("chat", "chatml", "vicuna")
    assert settled(files, tmp_path, text, **cache) == "text"
    assert settled(files, tmp_path, tmp_path / "absent.jsonl", template="plain") == "plain"  # nothing is read
