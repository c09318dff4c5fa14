import json

import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts
from alpaca_jax.scores.judge import difficulties
from alpaca_jax.scores.statistics import length_controlled


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps([{"instruction": f"Question {number}?", "output": "x"} for number in range(6)]))
    return prompts.read(path)


def test_alpaca_evals_file_names_prompts_by_row_and_has_the_gamed_baselines(asked, tmp_path):
    path = tmp_path / "df_gamed.csv"
    head = "preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model\n"
    lines = [f"{0.1 * row + 0.2 * of},{row},{row - 2.5 + of},{0.5 * row},False,gamed{of}" for of in range(2) for row in range(6)]
    lines[3] = ",3,0.5,1.5,False,gamed0"  # no verdict
    path.write_text(head + "\n".join(lines) + "\n")
    found = difficulties.read(path, asked)
    assert found.values == {prompt.id: 0.5 * row for row, prompt in enumerate(asked)}
    assert len(found.gamed.tanh) == 11 and found.gamed.weight == 0.1
    assert found.gamed.tanh[0] == pytest.approx(np.tanh(-2.5))
    ids = list(found.values)
    fitted = length_controlled(dict.fromkeys(ids, 0.4), {id: (row, 9 - row * row) for row, id in enumerate(ids)}, found)
    assert fitted.method == "AlpacaEval 2" and fitted.prompts == 6


def test_difficulties_alone_are_read_too(asked, tmp_path):
    path = tmp_path / "instruction_difficulty.csv"
    path.write_text("index,instruction_difficulty\n" + "".join(f"{row},{row / 4}\n" for row in reversed(range(6))))
    found = difficulties.read(path, asked)
    assert found.gamed is None and found.values[asked.prompts[5].id] == 1.25


def test_your_own_are_by_id(asked, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": "a", "difficulty": 0.5}\n{"id": "b", "difficulty": -1}\n')
    assert difficulties.read(path, asked).values == {"a": 0.5, "b": -1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,instruction_difficulty\n0,1\n1,2\n", "by the row of 2 prompts, and .*eval.json has 6"),
        ("index,instruction_difficulty\n0,hard\n", "instruction_difficulty is 'hard', not a number"),
        ("index,length\n0,1\n", "instruction_difficulty or difficulty is missing"),
        ("name,difficulty\na,1\n", "id is missing, and so is index"),
    ],
)
def test_another_file_is_refused(asked, tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        difficulties.read(path, asked)
