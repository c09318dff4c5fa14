"""Which matrices the settings of an adapter mean, and settings that mean none."""

from typing import Any

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.model.architecture import Architecture

SIZES = Architecture(
    vocab_size=100, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, tie_embeddings=True
)
QUERY, UP, DOWN = ("layers", "attention", "query"), ("layers", "mlp", "up"), ("layers", "mlp", "down")


def test_all_linear_means_every_matrix_of_the_layers() -> None:
    changes = plan(AdapterConfig(rank=4, alpha=6), SIZES).changes
    assert [path[-1] for path, _ in changes] == ["query", "key", "value", "out", "gate", "up", "down"]
    assert {(change.ranks, change.scales) for _, change in changes} == {((4, 4, 4), (1.5, 1.5, 1.5))}


def test_names_and_patterns_choose_modules_ranks_and_scales() -> None:
    adapter = plan(AdapterConfig(rank=8, alpha=16, targets=("q_proj", "mlp.up_proj"), rank_pattern={r"1\.self_attn\.q_proj": 2}), SIZES)
    assert dict(adapter.changes)[QUERY] == ((8, 2, 8), (2.0, 8.0, 2.0)) and dict(adapter.changes)[UP].ranks == (8, 8, 8)
    adapter = plan(AdapterConfig(rank=4, targets=r".*\.[02]\.mlp\.down_proj", alpha_pattern={"down_proj": 6}, rslora=True), SIZES)
    assert adapter.changes == ((DOWN, ((4, 0, 4), (3.0, 0.0, 3.0))),)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"targets": ["qproj"]}, r"adapter\.targets: qproj matches no matrix of the model; did you mean q_proj\?"),
    "one of two": ({"targets": ["q_proj", "query"]}, "query matches no matrix"),
    "a layer that isn't there": ({"targets": r".*\.9\..*"}, r"as in model\.layers\.0\.self_attn\.q_proj"),
    "a tied table": ({"targets": ["q_proj", "embed_tokens"]}, r"embed_tokens is a table .* may be one weight"),
    "tables by a pattern": ({"targets": ".*"}, "is a table"),
    "no pattern": ({"targets": "("}, "can't be matched in linear time"),
    "look-around": ({"rank_pattern": {"(?=q).*": 2}}, r"adapter\.rank_pattern: .*linear time"),
    "a pattern of none": ({"alpha_pattern": {"lm_head": 2}}, r"adapter\.alpha_pattern: lm_head matches the end of no target"),
    "a pattern of what is no target": ({"targets": ["q_proj"], "rank_pattern": {"k_proj": 2}}, r"k_proj matches the end of no target"),
    "too large": ({"rank": 20}, r"model\.layers\.0\.self_attn\.k_proj is 16 x 32, and its rank 20"),
    "too large by a pattern": ({"rank": 2, "rank_pattern": {"down_proj": 33}}, r"mlp\.down_proj is 32 x 48, and its rank 33"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_fit_no_model_are_named(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        plan(parse(AdapterConfig, {"rank": 4, **changes}), SIZES)


@pytest.mark.parametrize(
    "changes",
    [{"rank": 0}, {"alpha": 0}, {"alpha": "nan"}, {"dropout": 1}, {"targets": []}, {"rank_pattern": {"q_proj": 0}}, {"base": "int4"}],
)
def test_values_out_of_range_are_refused_by_key(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        parse(AdapterConfig, changes)
