"""Records built by Apache Beam: all of them, split by the hash of their ids, and read again as a source."""

from collections import Counter
from pathlib import Path

import pytest

from alpaca_jax import records
from alpaca_jax.data import beam, origin
from alpaca_jax.errors import UserError


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(UserError, match=r"pip install 'alpaca-jax\[beam\]'"):
        beam.build(tmp_path, tmp_path / "built")


def test_every_record_of_every_file_is_in_one_split(tmp_path: Path) -> None:
    pytest.importorskip("apache_beam")
    (tmp_path / "records").mkdir()
    for part in range(3):
        made = [records.Record(f"Say {part} {number}.", output=str(number), system="Be kind.") for number in range(200)]
        records.write(tmp_path / "records" / f"part-{part}.jsonl", made)
    folder = beam.build(tmp_path / "records", tmp_path / "built", heldout=0.1)
    train, heldout = (list(origin.find(f"tfds:{folder}#{split}").stream(Counter())) for split in ("train", "heldout"))
    assert len({record.instruction for record in train + heldout}) == len(train) + len(heldout) == 600
    assert 30 < len(heldout) < 90 and train[0].system == "Be kind."
    assert max(map(records.rank, heldout)) < min(map(records.rank, train))
