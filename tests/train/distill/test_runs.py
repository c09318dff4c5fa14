"""Distillation through the verb: each signal learns, caches are kept and checked, and a resumed run equals the straight one."""

import shutil

import pytest
from training import config

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.train.run import run

STEPS = 6


@pytest.fixture(scope="module")
def teacher(files, tmp_path_factory):
    """A run of a few steps as the teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    run(config(files, folder, steps=20))
    return folder / "train"


def distilled(files, folder, source, steps=STEPS, **objective):
    """The lines of the metrics of a run."""
    own = {"name": "distill", "teacher": str(source), **objective}
    run(config(files, folder, steps=steps, evaluate_every=3, seed=3, checkpoint={"every_steps": 2}, objective=own))
    return metrics.read(folder / "train" / "metrics.jsonl")


def figures(lines, name):
    return [line[name] for line in lines if name in line]


@pytest.fixture(scope="module")
def exact(files, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    return folder, distilled(files, folder, teacher)


def test_a_student_comes_closer_to_its_teacher(exact):
    _, lines = exact
    assert figures(lines, "loss")[-1] < 0.8 * figures(lines, "loss")[0]
    assert figures(lines, "loss") == pytest.approx(figures(lines, "divergence"), rel=1e-6)
    assert figures(lines, "heldout_kl")[-1] < figures(lines, "heldout_kl")[0]
    assert all(0 <= value <= 1 for value in figures(lines, "heldout_agreement"))
    assert figures(lines, "heldout_loss") and figures(lines, "cross_entropy")


@pytest.mark.prove
def test_a_run_that_resumes_has_the_losses_of_the_straight_one(files, teacher, exact, tmp_path):
    folder, straight = exact
    shutil.copytree(folder, tmp_path / "run")
    for kept in (tmp_path / "run" / "train" / "checkpoints").iterdir():
        if kept.name.isdigit() and int(kept.name) > 2:
            shutil.rmtree(kept)
    (tmp_path / "run" / "train" / "summary.json").unlink()
    resumed = distilled(files, tmp_path / "run", teacher)
    for name in ("loss", "heldout_kl"):
        assert figures(resumed, name) == figures(straight, name)


@pytest.mark.prove
def test_a_cache_of_another_teacher_is_refused_before_the_first_step(files, teacher, exact, tmp_path):
    kept = tmp_path / "kept"
    distilled(files, tmp_path / "one", teacher, 3, cache=str(kept))
    other = exact[0] / "train"
    with pytest.raises(UserError, match="is a cache of other teachers than this run's"):
        distilled(files, tmp_path / "two", other, 3, cache=str(kept))


@pytest.mark.prove
def test_the_teacher_in_the_step_gives_the_losses_of_the_exact_cache(files, tmp_path, teacher, exact):
    live = distilled(files, tmp_path, teacher, signal="live")
    for name in ("loss", "heldout_kl"):
        assert figures(live, name) == pytest.approx(figures(exact[1], name), rel=2e-3)  # the cache has float16


@pytest.mark.prove
@pytest.mark.parametrize("objective", [{"signal": "draws", "draws": 64}, {"signal": "top", "top": 64}], ids=str)
def test_draws_and_top_tokens_come_close_to_the_exact_cache(files, tmp_path, teacher, exact, objective):
    found = distilled(files, tmp_path, teacher, **objective)
    assert figures(found, "heldout_kl") == pytest.approx(figures(exact[1], "heldout_kl"), rel=0.05)


@pytest.mark.prove
def test_two_equal_teachers_are_one(files, tmp_path, teacher, exact):
    pair = {name: {"source": str(teacher)} for name in ("one", "two")}
    found = distilled(files, tmp_path, None, teacher=None, teachers=pair)
    assert figures(found, "loss") == pytest.approx(figures(exact[1], "loss"), rel=1e-3)
