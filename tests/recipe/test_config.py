"""A recipe's experiment may come from a stranger: its stages take settings of their verbs and nothing else."""

import pytest

from alpaca_jax import __main__ as cli
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.recipe.config import Stage

STAGE = {"verb": "train", "output": "train", "arguments": ["dir=x", "data.records=a b"], "overrides": {"optimizer": {"name": "lion"}}}


def test_settings_pass():
    assert parse(Stage, STAGE).command("laptop") == ["train", "experiment=laptop", "dir=x", "data.records=a b", "optimizer.name=lion"]


@pytest.mark.parametrize(
    "changes",
    [
        {"verb": "jobs", "arguments": ["action=resume", "dir=evil", "trust=true"]},
        {"verb": "recipe"},
        {"verb": "-c"},
        {"arguments": ["-m", "seed=0,1"]},
        {"arguments": ["--config-dir=evil"]},
        {"arguments": ["hydra.launcher.environment={LD_PRELOAD: x}"]},
        {"arguments": ["hydra/launcher=local"]},
        {"arguments": ["+hydra.callbacks.x._target_=os.system"]},
        {"arguments": ["seed"]},
        {"overrides": {"hydra": {"launcher": {"nodes": 2}}}},
        {"overrides": {"--config-dir": "evil"}},
        {"overrides": {"-m": ""}},
        {"output": "../../home"},
        {"output": "/home"},
        {"output": "."},
        {"output": ""},
    ],
)
def test_anything_else_is_refused(changes):
    with pytest.raises(UserError, match="stage takes no other argument|give the name of a folder|verb: input should be"):
        parse(Stage, STAGE | changes)


def test_a_stage_refers_to_the_experiment_s_own_settings() -> None:
    command = cli._parse(
        [
            "recipe",
            "experiment=frontier_small",
            "settings.davinci.records=x.json",
            "settings.teacher=${settings.smollm2}",
            "settings.records=8",
        ]
    )
    stage = cli._config(command, cli._compose(command)).stages["train"]
    settings = stage.command("frontier_small")
    assert "data.records=runs/frontier_small/smollm2/records/records.jsonl" in settings and "data.limit=8" in settings
    assert "model.architecture.vocab_size=49152" in settings and "epochs=8" in settings
