"""What the benchmark and the proof of conversion rest on: a model's folder, the cost of a process, and the comparison of tensors."""

import json
import resource
import sys
import time

import numpy as np
import pytest

from alpaca_jax.formats import pretrained, safetensors
from alpaca_jax.formats.names import weights
from alpaca_jax.model.architecture import Architecture
from tools.benchmark import convert, process, random_model
from tools.prove import convert_7b

TINY = Architecture(vocab_size=300, hidden_size=16, intermediate_size=24, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=8)


@pytest.fixture
def folder(tmp_path):
    random_model.write(tmp_path / "hf", TINY)
    return tmp_path / "hf"


def test_the_random_model_is_a_whole_one_of_many_values_that_float16_holds_too(folder):
    opened = pretrained.open(folder)
    assert (opened.architecture, opened.dtype) == (TINY, "bfloat16")
    assert len(list(folder.glob("*.safetensors"))) > 1
    for path, weight in weights(TINY).items():
        values = opened.read(path).astype(np.float32)
        assert values.shape == weight.shape
        assert len(np.unique(values)) > values.size**0.5
        assert np.array_equal(values.astype(np.float16), values)
    assert not np.array_equal(*opened.read(("layers", "mlp", "up"))[:2])


def test_the_comparison_names_what_differs_in_a_byte_or_is_lacking(folder, tmp_path):
    expected = convert_7b.digests(folder)
    assert len(expected) == 3 * 9 + 3
    assert convert_7b.compare(folder, expected) == []
    damaged = sorted(folder.glob("*.safetensors"))[-1]
    (name, tensor), *_ = sorted(safetensors.header(damaged).items())
    content = bytearray(damaged.read_bytes())
    content[tensor.offset + tensor.nbytes - 1] ^= 1
    damaged.write_bytes(content)
    assert convert_7b.compare(folder, expected) == [name]
    assert convert_7b.compare(folder, {**expected, "another": ""}) == sorted([name, "another"])


def test_a_process_costs_its_own_time_and_memory(tmp_path):
    spent = process.run([sys.executable, "-c", "import time; held = b'1' * 400_000_000; time.sleep(0.2)"], tmp_path)
    assert 0.2 < spent.seconds <= spent.synced < 30
    assert 400e6 < spent.peak < 400e6 + max(200e6, _peak())
    with pytest.raises(SystemExit, match=r"(?s)ended with 3:.*what was wrong"):
        process.run([sys.executable, "-c", "print('what was wrong'); raise SystemExit(3)"], tmp_path)


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_turns_keep_what_is_read_later_and_count_no_warm_up(tmp_path, monkeypatch):
    (tmp_path / "hf").mkdir()
    ran = []

    def run(command, folder):
        ran.append((command[0], sorted(path.name for path in folder.iterdir())))
        (folder / command[0]).write_text(str(time.monotonic()))
        return process.Spent(1.0, 2.0, 3)

    monkeypatch.setattr(process, "run", run)
    every = [convert.Contestant(f"to {target}", source, target, (target,)) for source, target in (("hf", "a"), ("a", "b"), ("hf", "c"))]
    spent = convert.in_turns(every, tmp_path, number=2, warmups=1)
    assert ran == 3 * [("a", ["hf"]), ("b", ["a", "hf"]), ("c", ["hf"])]
    assert {name: len(found) for name, found in spent.items()} == {"to a": 2, "to b": 2, "to c": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_the_ratio_is_the_peers_seconds_over_ours_and_memory_its_highest(capsys):
    spent = {each.name: [process.Spent(1.0, 2.0, 10**9)] for each in convert.contestants(convert.Path("x"))}
    spent[convert.PLAIN] = [process.Spent(1.0, seconds, peak) for seconds, peak in ((1.0, 10**8), (4.0, 10**9), (9.0, 10**8))]
    convert.report(spent, "tiny", 10**8)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (line["name"], line["ours"], line["peer"], line["ratio"], line["ratio_until_ended"]) == ("convert", 4.0, 2.0, 0.5, 1.0)
    assert line["paths"][convert.PLAIN] == {"on_disk_s": 4.0, "seconds": 1.0, "peak_mb": 1000}
