"""A recipe resumes where it was stopped, reruns what has changed, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from alpaca_jax import lock
from alpaca_jax.errors import UserError
from alpaca_jax.recipe import marker
from alpaca_jax.recipe.config import Config, Stage
from alpaca_jax.recipe.run import run

VERBS = Path(__file__).with_name("fake_verbs.py")
PREFIX = (sys.executable, str(VERBS))
OUTPUTS = {"generate": "records", "train": "train", "evaluate": "evaluate", "convert": "hf"}


def recipe(folder, experiment=None, **overrides):
    stages = {
        verb: Stage(verb=verb, output=output, arguments=(f"dir={folder}",), overrides=overrides.get(verb, {}))
        for verb, output in OUTPUTS.items()
    }
    return Config(dir=str(folder), experiment=experiment, stages=stages)


def log(folder):
    return [line.split()[0] for line in (folder / "log").read_text().splitlines()]


def start(folder, **overrides):
    """A recipe in a process of its own, to be killed."""
    script = f"""
        import sys
        sys.path.insert(0, {str(VERBS.parent)!r})
        from test_run import PREFIX, Path, recipe, run
        try:
            run(recipe(Path({str(folder)!r}), **{overrides!r}), PREFIX)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def pids(folder):
    return [int(line.split()[1]) for line in (folder / "log").read_text().splitlines()] if (folder / "log").exists() else []


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_stages_run_in_order_once(tmp_path):
    summary = run(recipe(tmp_path), PREFIX)
    assert log(tmp_path) == ["generate", "train", "evaluate", "convert"]
    assert list(summary["seconds"]) == ["generate", "train", "evaluate", "convert"]
    assert summary["hf_dir"] == str(tmp_path / "hf")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    run(recipe(tmp_path), PREFIX)
    assert len(log(tmp_path)) == 4
    marker = json.loads((tmp_path / "stages" / "train.json").read_text())
    assert marker["state"] == "done"
    assert marker["starts"] == 1


def test_changed_override_redoes_that_stage_and_those_after_it(tmp_path):
    run(recipe(tmp_path), PREFIX)
    run(recipe(tmp_path, train={"optimizer": {"learning_rate": 1e-3}}), PREFIX)
    assert log(tmp_path)[4:] == ["train", "evaluate", "convert"]
    replaced = sorted(path.name.split("-")[2] for path in (tmp_path / "replaced").iterdir())
    assert replaced == ["evaluate", "hf", "train"]  # nothing is deleted
    assert (tmp_path / "train" / "starts").read_text() == "1"


def test_answers_of_a_teacher_stay_where_more_are_wanted(tmp_path):
    run(recipe(tmp_path), PREFIX)
    run(recipe(tmp_path, generate={"count": 128, "teacher": {"timeout": 9}}), PREFIX)
    assert log(tmp_path)[4:] == ["generate", "train", "evaluate", "convert"]
    assert (tmp_path / "records" / "starts").read_text() == "2"
    run(recipe(tmp_path, generate={"count": 128, "seed": 1}), PREFIX)
    assert (tmp_path / "records" / "starts").read_text() == "1"


def test_settings_that_change_no_result_redo_nothing(tmp_path):
    run(recipe(tmp_path), PREFIX)
    run(recipe(tmp_path, train={"log_every": 5, "hardware": "auto"}), PREFIX)
    assert len(log(tmp_path)) == 4


def test_stage_whose_output_was_deleted_is_redone_with_those_after_it(tmp_path):
    run(recipe(tmp_path), PREFIX)
    (tmp_path / "train" / "starts").unlink()
    (tmp_path / "train").rmdir()
    run(recipe(tmp_path), PREFIX)
    assert log(tmp_path)[4:] == ["train", "evaluate", "convert"]


def test_wrong_key_is_found_before_anything_starts(tmp_path):
    with pytest.raises(SystemExit) as end:
        run(recipe(tmp_path, convert={"wrong": 1}), PREFIX)
    assert end.value.code == 2
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("code", [1, 2, 201])
def test_exit_code_of_a_stage_is_passed_on(tmp_path, code):
    with pytest.raises(SystemExit) as end:
        run(recipe(tmp_path, evaluate={"exit": code}), PREFIX)
    assert end.value.code == code
    run(recipe(tmp_path), PREFIX)
    assert log(tmp_path) == ["generate", "train", "evaluate", "evaluate", "convert"]


def test_exit_code_200_starts_the_stage_again(tmp_path):
    run(recipe(tmp_path, train={"restarts": 3}), PREFIX)
    assert log(tmp_path) == ["generate", "train", "train", "train", "train", "evaluate", "convert"]
    assert json.loads((tmp_path / "stages" / "train.json").read_text())["starts"] == 4


def test_killed_recipe_takes_its_stage_along_and_goes_on(tmp_path):
    process = start(tmp_path, train={"hang": 60})
    wait_for(lambda: len(pids(tmp_path)) == 2)
    process.kill()
    process.communicate()
    run(recipe(tmp_path, train={"hang": 60}), PREFIX)
    assert gone(pids(tmp_path)[1])
    assert log(tmp_path) == ["generate", "train", "train", "evaluate", "convert"]
    assert (tmp_path / "train" / "starts").read_text() == "2"  # in its own folder, which it can go on from


def test_ctrl_c_ends_with_130_and_leaves_no_process(tmp_path):
    process = start(tmp_path, train={"sleep": 60, "spawn": 1})
    wait_for(lambda: (tmp_path / "train" / "child").exists() and (tmp_path / "train" / "child").read_text())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert gone(pids(tmp_path)[1])
    wait_for(lambda: gone(int((tmp_path / "train" / "child").read_text())))


def test_sigterm_is_passed_on_and_the_stage_answers(tmp_path):
    process = start(tmp_path, train={"sleep": 60})
    wait_for(lambda: len(pids(tmp_path)) == 2)
    process.terminate()
    _, shown = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "train ended with exit code 143" in shown
    assert gone(pids(tmp_path)[1])


@pytest.mark.parametrize("content", ["[1]", '{"name": "train"}', "{", "[" * 100_000, '{"name": 1, "command": "x"}'])
def test_marker_that_is_none_is_named(tmp_path, content):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "train.json").write_text(content)
    with pytest.raises(UserError, match=r"stages/train\.json.*delete"):
        run(recipe(tmp_path), PREFIX)


def test_second_recipe_in_the_same_folder_is_refused(tmp_path):
    process = start(tmp_path, train={"sleep": 60})
    wait_for(lambda: len(pids(tmp_path)) == 2)
    with pytest.raises(UserError, match=rf"stages is being written by `alpaca-jax recipe` \(process {process.pid} "):
        run(recipe(tmp_path), PREFIX)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_what_another_process_writes_is_not_moved_away(tmp_path):
    run(recipe(tmp_path), PREFIX)
    with lock.held(tmp_path, "train", "train"), pytest.raises(UserError, match="train is being written by `alpaca-jax train`"):
        run(recipe(tmp_path, train={"optimizer": {"learning_rate": 1e-3}}), PREFIX)
    assert not (tmp_path / "replaced").exists()


def test_a_moved_folder_and_a_moved_cache_redo_nothing(tmp_path):
    run(recipe(tmp_path / "a", train={"data": {"cache": "here"}}), PREFIX)
    (tmp_path / "a").rename(tmp_path / "b")
    summary = run(recipe(tmp_path / "b", train={"data": {"cache": "there"}}), PREFIX)
    assert len(log(tmp_path / "b")) == 4 and not (tmp_path / "a").exists()
    assert summary["hf_dir"] == str(tmp_path / "b" / "hf")


def test_a_stage_that_was_interrupted_goes_on_where_the_folder_is_now(tmp_path):
    with pytest.raises(SystemExit):
        run(recipe(tmp_path / "a", train={"exit": 201}), PREFIX)
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(SystemExit):
        run(recipe(tmp_path / "b", train={"exit": 201}), PREFIX)
    assert (tmp_path / "b" / "train" / "starts").read_text() == "2" and not (tmp_path / "a").exists()


def test_places_do_not_count_but_what_lies_there(tmp_path):
    def fingerprints(dir, **changes):
        data = {"records": str(tmp_path / "one.jsonl"), "cache": None, "max_length": 512} | changes
        made = marker.expected("train", ["train"], {"dir": dir, "data": data, "model": {"source": f"{dir}/base"}}, None, dir)
        return made.fingerprint, made.identity

    (tmp_path / "one.jsonl").write_text("a")
    (tmp_path / "two.jsonl").write_text("a")
    before = fingerprints("runs/a")
    assert fingerprints("/moved") == fingerprints("runs/a", cache="x") == before
    assert fingerprints("runs/a", records=str(tmp_path / "two.jsonl")) == before
    assert fingerprints("runs/a", max_length=256) != before
    (tmp_path / "one.jsonl").write_text("b")
    assert fingerprints("runs/a") != before


def test_a_recipe_of_an_older_version_goes_on(tmp_path):
    run(recipe(tmp_path), PREFIX)
    resolved, before = {"dir": str(tmp_path)}, None
    for verb in OUTPUTS:
        path = tmp_path / "stages" / f"{verb}.json"
        made = marker.expected(verb, [verb], resolved, before, str(tmp_path))
        value = json.loads(path.read_text())
        value["fingerprint"], value["identity"] = made.older
        path.write_text(json.dumps(value))
        before = marker.read(path)
    run(recipe(tmp_path), PREFIX)
    assert len(log(tmp_path)) == 4


def test_memory_of_a_stage_is_seen(tmp_path):
    summary = run(recipe(tmp_path, train={"megabytes": 300, "sleep": 1.5}), PREFIX)
    own = psutil.Process(os.getpid()).memory_info().rss
    assert summary["peak_memory_bytes"] > own * 0.5 + 300e6


def test_overrides_become_key_value_in_the_command():
    stage = Stage(
        verb="train", output="train", arguments=("seed=1",), overrides={"optimizer": {"name": "sgd", "betas": [0.9, 0.95]}, "steps": None}
    )
    assert stage.command("laptop") == [
        "train",
        "experiment=laptop",
        "seed=1",
        "optimizer.name=sgd",
        "optimizer.betas=[0.9, 0.95]",
        "steps=null",
    ]


def test_stages_find_the_users_own_yaml(tmp_path):
    mine = tmp_path / "configs" / "experiment" / "mine"
    mine.mkdir(parents=True)
    stage = {"verb": "convert", "output": "hf", "arguments": [f"dir={tmp_path}"]}
    (mine / "recipe.yaml").write_text("# @package _global_\n" + json.dumps({"experiment": "mine", "stages": {"convert": stage}}))
    (mine / "convert.yaml").write_text("# @package _global_\nsuorce: nowhere\n")
    command = [sys.executable, "-m", "alpaca_jax", "recipe", "experiment=mine", "--config-dir", str(tmp_path / "configs")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "suorce: there is no such key; did you mean source?" in ended.stderr
    assert "convert can't run: alpaca-jax convert experiment=mine" in ended.stderr
