"""The metrics file survives a killed writer and a rewind; rates and means are what a hand calculation gives."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax import metrics
from alpaca_jax.metrics import MetricsWriter, Throughput, WeightedMean


def test_lines_are_json_even_for_nan_and_arrays(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"loss": np.float32(2.5), "mfu": None, "bad": float("nan")})
        writer.write(np.int64(2), {"loss": np.array(2.0), "worse": float("inf"), "list": [np.int32(1)]})
    first, second = metrics.read(tmp_path / "metrics.jsonl")
    assert first == {"step": 1, "loss": 2.5, "mfu": None, "bad": None}
    assert second == {"step": 2, "loss": 2.0, "worse": None, "list": [1]}


def test_torn_last_line_is_cut_before_the_next_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert [line["step"] for line in metrics.read(path)] == [1]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, {"loss": 1.5})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_rewind_drops_the_steps_after_the_one_training_goes_on_from(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step})
        assert writer.rewind(3) == 2
        assert writer.rewind(3) == 0
        writer.write(4, {"loss": 9.0})
    assert [(line["step"], line["loss"]) for line in metrics.read(writer.path)][-2:] == [(3, 1 / 3), (4, 9.0)]
    assert len(list((tmp_path / "events").iterdir())) >= 1


def test_read_of_an_absent_file_is_empty(tmp_path):
    assert metrics.read(tmp_path / "metrics.jsonl") == []


def test_throughput_counts_real_tokens_and_knows_no_mfu_without_a_peak():
    now = iter([0.0, 2.0, 2.0, 3.0, 3.0])
    throughput = Throughput(peak_flops=100.0, tokens=1000, clock=lambda: next(now))
    throughput.add(tokens=30, slots=40, flops=50.0)
    throughput.add(tokens=10, slots=40, flops=50.0)
    assert throughput.take() == {"tokens_per_second": 20.0, "slots_per_second": 40.0, "utilisation": 0.5, "mfu": 0.5}
    throughput.peak_flops = None
    assert throughput.take() == {"tokens_per_second": 0.0, "slots_per_second": 0.0, "utilisation": None, "mfu": None}
    assert throughput.tokens == 1040


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 500)), min_size=1))
def test_weighted_mean_weighs_each_token_once(batches):
    mean = WeightedMean()
    for loss, tokens in batches:
        mean.add(loss * tokens, tokens)
    assert mean.value == pytest.approx(np.average([loss for loss, _ in batches], weights=[tokens for _, tokens in batches]))


def test_weighted_mean_of_nothing_is_nan():
    assert math.isnan(WeightedMean().value)
