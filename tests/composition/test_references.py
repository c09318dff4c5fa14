"""`${...}` in settings."""

import pytest
from omegaconf import OmegaConf

from alpaca_jax.composition.references import check, resolved
from alpaca_jax.errors import UserError


def _resolved(mapping):
    return resolved(OmegaConf.create(mapping))


def test_keys_variables_and_escapes(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    given = {"dir": "${oc.env:SCRATCH}/${a.b}", "a": {"b": "x"}, "list": ["${a}", "${list2[0]}"], "list2": [3], "text": r"\${a}"}
    found = _resolved(given)
    assert found["dir"] == "/scratch/x" and found["list"] == [{"b": "x"}, 3] and found["text"] == "${a}"


@pytest.mark.parametrize(
    "text", ["${oc.create:{a: 1}}", "${oc.decode:x}", "${hydra:runtime.cwd}", "${a.${b}}", "${${a}}", "${.a}", "${eval:1}"]
)
def test_what_is_not_understood_is_said(text):
    with pytest.raises(UserError, match="^dir: .* is not understood: give a whole key such as"):
        _resolved({"dir": text, "a": "b", "b": "a"})


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY"])
def test_a_secret_is_no_setting(monkeypatch, name):
    monkeypatch.setenv(name, "a-very-secret-value")
    with pytest.raises(UserError, match=f"^teacher.base_url: {name} holds a secret") as raised:
        _resolved({"teacher": {"base_url": f"https://host/?k=${{oc.env:{name}}}"}})
    assert "a-very-secret-value" not in str(raised.value)


@pytest.mark.parametrize("doubling", ["${x%d}${x%d}", "${x%d}" * 50])
def test_references_that_explode_are_refused_at_once(doubling):
    for mapping in (
        {"x0": "lol"} | {f"x{i}": doubling.replace("%d", str(i - 1)) for i in range(1, 60)},
        {f"x{i}": f"${{x{i + 1}}}" for i in range(5000)},
        {"x5000": "a"} | {f"x{i}": f"${{x{i + 1}}}" for i in reversed(range(5000))},
        {"x0": ["lol"] * 9} | {f"x{i}": [f"${{x{i - 1}}}"] * 9 for i in range(1, 10)},
    ):
        with pytest.raises(UserError, match="references make more than"):
            check(mapping)


@pytest.mark.parametrize(
    ("key", "said"), [("${nothing}", "Interpolation key 'nothing' not found"), ("???", "is needed and has no default")]
)
def test_what_is_missing(key, said):
    with pytest.raises(UserError, match=said):
        _resolved({"dir": key})
