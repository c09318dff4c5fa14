"""The manifest: read back as written, and refused where it is another program's."""

import dataclasses
import json

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.records import Manifest


def test_a_manifest_is_read_back_and_a_foreign_one_refused(tmp_path):
    manifest = Manifest(
        method="magpie",
        teacher={"model": "m"},
        sampling={},
        seed=1,
        records=2,
        sha256="s",
        counts={"kept": 2},
        requests=4,
        prompt_tokens=5,
        completion_tokens=6,
        dollars=0.0,
        doubtful_dollars=0.0,
        prices={},
        seconds=1.5,
        stopped_by="count",
        versions={},
        made="2026-01-01T00:00:00+00:00",
    )
    manifest.write(tmp_path / "manifest.json")
    assert Manifest.read(tmp_path / "manifest.json") == manifest
    for content in ('{"other": 1}', '{"method": 1}', json.dumps(dataclasses.asdict(manifest) | {"teacher": "m"})):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UserError, match=r"other\.json: not a manifest"):
            Manifest.read(tmp_path / "other.json")
    (tmp_path / "other.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"other\.json: .*deep"):
        Manifest.read(tmp_path / "other.json")
