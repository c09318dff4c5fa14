"""PEFT folders: what is written is what PEFT expects, and what is read back is what was written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_arrays import random_arrays
from safetensors.numpy import load_file

from alpaca_jax.formats.adapter import layout, reader, trained
from alpaca_jax.formats.adapter import peft as pefts
from alpaca_jax.formats.adapter.export import export
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.model.tree import Tree, flatten

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, transformers and peft
KINDS: dict[str, dict[str, Any]] = {
    "every matrix": {"rank": 4},
    "names": {"rank": 3, "targets": ["q_proj", "down_proj"], "dropout": 0.1},
    "one layer by a pattern": {"rank": 2, "targets": r".*\.1\.mlp\..*"},
    "patterns": {"rank": 2, "rank_pattern": {"q_proj": 3, r"layers.1.self_attn.v_proj": 1}, "alpha_pattern": {"mlp.up_proj": 7}},
    "by the root of the rank": {"rank": 4, "alpha": 3.5, "rslora": True},
    "dora": {"rank": 2, "dora": True},
}


def written(folder: Path, kind: str, base: Pretrained) -> Tree:
    config = AdapterConfig(**KINDS[kind])
    arrays = random_arrays(config, base)
    export(folder, trained.as_peft(folder, arrays, config, base.architecture, base.source), base.tokenizer, {"README.md": "A card."})
    return arrays


@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_the_folder_and_merges_what_we_merge(kind: str, make_llama: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder, model = make_llama()
    base = huggingface.open_folder(folder)
    written(tmp_path / "adapter", kind, base)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    assert {name.replace(".default", "") for name in peft.get_peft_model_state_dict(theirs)} == load_file(
        tmp_path / "adapter" / pefts.WEIGHTS
    ).keys()
    merged = {name: tensor.numpy() for name, tensor in theirs.merge_and_unload().state_dict().items()}
    ours = reader.merge(tmp_path / "adapter", base)
    for path, weight in weights(base.architecture).items():
        layers = ours.read(path) if weight.name.stacked else ours.read(path)[None]
        for (name, _), layer in zip(weight.tensors("huggingface"), layers, strict=True):
            np.testing.assert_allclose(weight.name.to_theirs(layer), merged[name], rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_read_back_it_is_what_was_written(kind: str, make_llama: Any, tmp_path: Path) -> None:
    base = huggingface.open_folder(make_llama()[0])
    arrays = written(tmp_path / "adapter", kind, base)
    config = AdapterConfig(**KINDS[kind])
    adapter, again = layout.arrays(pefts.open_folder(tmp_path / "adapter"), base.architecture)
    planned = plan(config, base.architecture)
    assert (adapter.changes, adapter.dora) == (planned.changes, planned.dora)
    ranks = {path: change.ranks for path, change in planned.changes}
    for path, array in flatten(again).items():
        for layer, rank in enumerate(ranks[path[:-1]]):
            expected = flatten(arrays)[path][layer]
            np.testing.assert_array_equal(array[layer], expected if rank else 0 * expected)
