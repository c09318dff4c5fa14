"""A run goes on when its records, cache, tokenizer or model have only moved, and not when they hold something else."""

import json
import os
import shutil

import pytest
from training import config, mapping

from alpaca_jax import checkpoint, lock, metrics, rundir
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native
from alpaca_jax.train.run import FROZEN, OLDER, run


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """A run of one step on records of its own, and its settings."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(files / "records.jsonl", folder / "records.jsonl")
    data = mapping(files, folder)["data"] | {"records": str(folder / "records.jsonl")}
    run(config(files, folder / "run", steps=1, data=data))
    return folder, data


def again(files, finished, **changes):
    folder, data = finished
    return run(config(files, folder / "run", **{"steps": 1, "data": data} | changes))


def test_records_cache_tokenizer_and_the_working_directory_may_move(files, finished, tmp_path, monkeypatch):
    folder, data = finished
    (tmp_path / "moved.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    assert again(files, finished, data=data | {"records": str(tmp_path / "moved.jsonl")})["steps"] == 1
    assert again(files, finished, data=data | {"cache": str(tmp_path / "cache")})["steps"] == 1
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files / "tokenizer", tmp_path / "tok")
    model = mapping(files, folder)["model"] | {"tokenizer": "tok"}
    assert again(files, finished, model=model, data=data | {"records": "moved.jsonl"})["steps"] == 1
    assert len(metrics.read(folder / "run" / "train" / "metrics.jsonl")) == 1  # nothing was trained again


def test_other_records_at_another_place_are_refused(files, finished, tmp_path):
    folder, data = finished
    (tmp_path / "other.jsonl").write_text((folder / "records.jsonl").read_text().replace("it is", "it was"))
    with pytest.raises(UserError, match=r"trained with other data .*data.records: .*other.jsonl' now.* restore the data as before"):
        again(files, finished, data=data | {"records": str(tmp_path / "other.jsonl")})


def test_another_tokenizer_at_another_place_is_refused(files, finished, tiny_tokenizer):
    with pytest.raises(UserError, match="trained with other"):
        again(files, finished, model=mapping(files, finished[0])["model"] | {"tokenizer": str(tiny_tokenizer)})


def test_what_decides_the_numbers_is_still_compared(files, finished, tmp_path):
    with pytest.raises(UserError, match=r"belongs to another run:\n  data\.max_length: 256 there, 128 now"):
        again(files, finished, data=finished[1] | {"max_length": 128, "cache": str(tmp_path)})


@pytest.mark.parametrize("frozen", [(), ("embed.*",)])
def test_a_model_may_move_but_not_become_another(files, finished, tmp_path, frozen):
    source = tmp_path / "source"
    shutil.copytree(finished[0] / "run" / "train", source)
    optimizer = {"learning_rate": 1e-2, "frozen": frozen}
    run(config(files, tmp_path / "run", steps=1, model={"source": str(source)}, optimizer=optimizer))
    os.rename(source, tmp_path / "moved")
    run(config(files, tmp_path / "run", steps=1, model={"source": str(tmp_path / "moved")}, optimizer=optimizer))
    base = native.base_of(tmp_path / "run" / "train" / "model")
    assert (base.source if frozen else None) == (str(tmp_path / "moved") if frozen else None)

    other = tmp_path / "other"
    run(config(files, other, steps=1, seed=1))
    with pytest.raises(UserError, match="with other weights|another model now"):
        run(config(files, tmp_path / "run", steps=1, model={"source": str(other / "train")}, optimizer=optimizer))

    saved = tmp_path / "run" / "train" / "checkpoints" / "1"
    meta = json.loads((saved / checkpoint.MANIFEST).read_text())["meta"]
    del meta["fingerprints"]["weights"]  # as an older version has written it
    checkpoint.seal(saved, 1, meta)
    run(config(files, tmp_path / "run", steps=1, model={"source": str(tmp_path / "moved")}, optimizer=optimizer))
    shutil.copytree(tmp_path / "moved", source)
    if not frozen:
        with pytest.raises(UserError, match=r"belongs to another run:\n  model\.source"):
            run(config(files, tmp_path / "run", steps=1, model={"source": str(source)}, optimizer=optimizer))


def test_a_second_run_in_the_folder_is_refused_before_any_work(files, finished, monkeypatch):
    monkeypatch.setattr("alpaca_jax.train.run.prepare", lambda *_: pytest.fail("nothing may be prepared"))
    with lock.held(finished[0] / "run", "train", "train"), pytest.raises(UserError, match="is being written by `alpaca-jax train`"):
        again(files, finished)


def test_a_run_from_before_there_were_objectives_goes_on_as_what_it_was(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("seed: 0\n")
    now = {"seed": 0, "adapter": None, "objective": {"name": "sft"}}
    assert rundir.check_same(path, now, FROZEN, (), OLDER) == {}
    with pytest.raises(UserError, match="objective.name: 'absent' there, 'dpo' now"):
        rundir.check_same(path, now | {"objective": {"name": "dpo"}}, FROZEN, (), OLDER)
