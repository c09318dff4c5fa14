"""Two hundred damaged inputs, some of each verb: each is read or refused. `make prove` tries thousands."""

import pytest

from tools.prove.fuzz import trial
from tools.prove.fuzz.inputs import inputs

COUNT = 15  # of each of the inputs
NAMES = (
    *("inspect records.jsonl", "inspect records.json", "inspect records.csv"),
    *(
        "inspect records.jsonl.gz",
        "inspect records.jsonl.zst",
        "inspect records.parquet",
        "inspect tokenizer.json",
        "inspect tokenizer_config.json",
    ),
    *("convert config.json", "convert safetensors", "convert adapter", "convert gguf", "convert orbax"),
    *("evaluate config.yaml", "recipe marker", "train experiment", "jobs job.json", "serve request", "generate answers"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {f"{input.verb} {input.name}": input for input in inputs(tmp_path_factory.mktemp("inputs"))}


def test_every_input_is_tried(made):
    assert tuple(made) == NAMES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads outlive a restore that has failed
@pytest.mark.parametrize("name", NAMES)
def test_damaged_inputs_are_read_or_refused(made, name, tmp_path):
    assert trial.run(made[name], None, tmp_path).end == "read"
    ended = {seed: trial.run(made[name], seed, tmp_path) for seed in range(COUNT)}
    faults = [f"seed {seed}, {one.file}: {one.end}\n{one.text}" for seed, one in ended.items() if one.end not in ("read", "refused")]
    assert not faults, "\n".join(faults)
    assert any(one.end == "refused" for one in ended.values())
