"""The answers of an evaluation with dir=gs://: they and the log of an endpoint grow on this machine, and go on from either place."""

from scripted_teacher import scripted_teacher

from alpaca_jax import storage
from alpaca_jax.config import parse
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.run import run


def test_another_machine_asks_nothing_again(gs, tmp_path, monkeypatch):
    (tmp_path / "asked.txt").write_text("One?\nTwo?\n")
    (tmp_path / "given.jsonl").write_text('{"instruction": "One?", "output": "x"}')
    scores = []
    with scripted_teacher() as server:
        others = {"given": str(tmp_path / "given.jsonl"), "gpt": {"base_url": server.base_url, "model": "m", "free": True}}
        answers = {"prompts": str(tmp_path / "asked.txt"), "others": others}
        settings = {
            "dir": gs,
            "model": {},
            "batch": {"examples": 2},
            "data": {"heldout": 0},
            "samples": {"prompts": []},
            "answers": answers,
        }
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            monkeypatch.setenv("HOME", str(tmp_path / name))
            scores.append(run(parse(Config, settings)))
            assert len(server.bodies) == 2
    assert scores[0]["answers"] == scores[1]["answers"]
    assert [each["answered"] for each in scores[0]["answers"]["sets"]] == [1, 2]
    found = [name for name in storage.objects(storage.at(f"{gs}/evaluate")) if name.startswith("answers/")]
    assert sorted(found) == ["answers/given.jsonl", "answers/gpt.jsonl", "answers/gpt/00000000.jsonl"]
