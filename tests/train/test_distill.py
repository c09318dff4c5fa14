"""Distillation through the verb: every signal learns, caches are kept and checked, and a resumed run equals the straight one."""

import pytest
from training import config

from alpaca_jax import metrics
from alpaca_jax.train.run import run


@pytest.fixture(scope="module")
def teacher(files, tmp_path_factory):
    """A run of 30 steps as the teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    run(config(files, folder, steps=30))
    return folder / "train"


def distilled(files, folder, teacher, steps=8, **objective):
    changes = {"steps": steps, "evaluate_every": steps, "seed": 3, "objective": {"name": "distill", "teacher": str(teacher), **objective}}
    run(config(files, folder, **changes))
    return [line for line in metrics.read(folder / "train" / "metrics.jsonl")]


def figures(lines, name):
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def exact(files, teacher, tmp_path_factory):
    return distilled(files, tmp_path_factory.mktemp("exact"), teacher)


def test_the_exact_cache_gives_the_losses_of_the_teacher_in_the_step(files, tmp_path, teacher, exact):
    live = distilled(files, tmp_path, teacher, signal="live")
    assert figures(live, "loss") == pytest.approx(figures(exact, "loss"), rel=2e-3)
    assert figures(live, "heldout_kl") == pytest.approx(figures(exact, "heldout_kl"), rel=2e-3)
    assert figures(exact, "loss")[-1] < 0.7 * figures(exact, "loss")[0]
    assert figures(exact, "loss") == pytest.approx(figures(exact, "divergence"), rel=1e-6)
