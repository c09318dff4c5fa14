"""The output files of a finished run's stages, with figures like those of the laptop's run."""

import dataclasses
import random

import pytest

from alpaca_jax import records
from alpaca_jax.metrics import MetricsWriter
from alpaca_jax.recipe.config import Config, Stage
from alpaca_jax.recipe.marker import Marker
from alpaca_jax.rundir import write_json

ANSWER = "Stay active, eat fruit and vegetables, and sleep at least seven hours a night."
SAMPLES = [
    {
        "prompt": "Give three tips for staying healthy.",
        "before": "Here are three tips for staying healthy.\n\n### Explanation:\nThe user is asking for advice on how to stay healthy. "
        * 2,
        "after": "1. Eat plenty of fruit and vegetables.\n2. Move for half an hour a day.\n3. Sleep for seven hours or more.",
    },
    {"prompt": "Write <b>bold</b> & plain.", "before": "", "after": "<script>alert(1)</script>"},
    {"prompt": "What is the capital of France?", "before": "The capital of France is Paris.", "after": "Paris."},
]


@pytest.fixture
def finished_run(tmp_path):
    """The config and the markers of a run with its files in tmp_path."""
    return make(tmp_path)


def make(folder, steps=18):
    """Writes the files below `folder` and returns the config and the markers of the run."""
    _records(folder / "records")
    _training(folder / "train", steps)
    _scores(folder / "evaluate")
    stages = {
        verb: Stage(verb=verb, output=output, arguments=(f"dir={folder}",))
        for verb, output in (("generate", "records"), ("train", "train"), ("evaluate", "evaluate"), ("convert", "hf"))
    }
    config = Config(dir=str(folder), experiment="laptop", stages=stages)
    spent = {"generate": (183.2, 2.31e9), "train": (214.9, 5.92e9), "evaluate": (38.4, 2.7e9), "convert": (7.1, 1.4e9)}
    markers = [
        Marker(
            name=name,
            command=stage.command("laptop"),
            fingerprint="",
            identity="",
            state="done",
            starts=1 + (name == "train"),
            seconds=spent[name][0],
            peak_memory_bytes=int(spent[name][1]),
            finished="2026-11-23T12:00:00Z",
        )
        for name, stage in stages.items()
    ]
    return config, markers


def _records(folder):
    made = [
        records.Record("How does a kettle work?", output=ANSWER),
        records.Record("Name three rivers.", "In Europe.", "Rhine, Oder, Ebro."),
    ]
    digest = records.write(folder / records.FILE, made)
    manifest = records.Manifest(
        **{field.name: None for field in dataclasses.fields(records.Manifest)}
        | {
            "method": "magpie",
            "teacher": {"model": None, "source": "smollm2-135m-instruct", "base_url": None, "endpoint": "completions"},
            "sampling": {"temperature": 0.3, "top_p": 0.95, "max_tokens": 128},
            "seed": 0,
            "records": 96,
            "sha256": digest,
            "counts": {"kept": 96, "cut": 31, "cut_instruction": 12, "near_duplicate": 7, "refusal": 4, "not_text": 0},
            "requests": 282,
            "prompt_tokens": 12995,
            "completion_tokens": 18867,
            "dollars": 0.0,
            "prices": {"prompt": 0.0, "completion": 0.0, "source": "runs on this machine"},
            "seconds": 174.4,
            "stopped_by": "count",
            "versions": {},
            "made": "2026-11-23T11:02:29+00:00",
        }
    )
    manifest.write(folder / records.MANIFEST)


def _training(folder, steps):
    noise = random.Random(0)
    with MetricsWriter(folder, tensorboard=False) as writer:
        for step in range(1, steps + 1):
            rate = 92 * (1 + noise.uniform(-0.05, 0.05))
            line = {
                "loss": 1.5 + 0.75 * 0.85**step + noise.uniform(-0.12, 0.12),
                "learning_rate": 1e-4 * (1 - (step - 1) / steps),
                "tokens_per_second": rate,
                "slots_per_second": rate / 0.91,
                "utilisation": 0.91,
                "mfu": 0.61,
                "tokens_real": 935 * step,
                "seconds": 11.4 * step,
            }
            writer.write(step, line)
    hardware = {"chip": "cpu", "devices": 1, "peak_flops": 1.2e11, "peak_source": "an fp32 product measured at the start of the run"}
    summary = {"steps": steps, "tokens_real": 935 * steps, "seconds": 205.0, "compile_seconds": 21.3, "epochs": 2.0, "examples": 72}
    write_json(folder / "summary.json", summary | {"parameters": 134_515_008, "hardware": hardware})


def _scores(folder):
    heldout = {
        "before": {"loss": 2.0514, "tokens": 1312, "examples": 24, "perplexity": 7.7788},
        "after": {"loss": 1.7382, "tokens": 1312, "examples": 24, "perplexity": 5.6871},
        "fall": 0.3132,
        "comparable": True,
    }
    write_json(folder / "scores.json", {"model": "run/train", "baseline": "smollm2-135m-instruct", "heldout": heldout, "samples": SAMPLES})
