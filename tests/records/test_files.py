"""Which files of a folder are read, and that no other data in it is passed over without a word."""

import pytest

from alpaca_jax import records
from alpaca_jax.errors import UserError


def names(path):
    return [str(file.relative_to(path)) for file in records.files(path)]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")


def test_a_folder_a_pattern_or_a_file(tmp_path):
    read = ["b.jsonl", "a.jsonl", "c.json", "d.txt", "e.jsonl.gz", "f.ndjson.zst", "g.csv", "h.parquet", "i.tsv.gz", "J.JSONL", "k.txt.gz"]
    touch(tmp_path, *read, ".hidden.jsonl", "manifest.json", "notes.md", "README")
    assert names(tmp_path) == sorted(read)
    assert records.beside(records.files(tmp_path)) == ["README", "notes.md"]
    assert [file.name for file in records.files(tmp_path / "*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [file.name for file in records.files(tmp_path / "notes.md")] == ["notes.md"]
    touch(tmp_path, "odd[1].jsonl")
    assert [file.name for file in records.files(tmp_path / "odd[1].jsonl")] == ["odd[1].jsonl"]  # a file's name before it is a pattern


def test_records_of_a_run_are_taken_alone(tmp_path):
    touch(tmp_path, "config.yaml", "other.jsonl", "records/records.jsonl", "records/manifest.json", "records/answers.jsonl")
    assert names(tmp_path) == ["records/records.jsonl"]
    assert names(tmp_path / "records") == ["records.jsonl"]


def test_a_records_file_among_shards_that_nobody_generated_is_not_taken_alone(tmp_path):
    touch(tmp_path, "records.jsonl", "more.jsonl", "notes.md")
    with pytest.raises(UserError, match=r"holds records\.jsonl and more\.jsonl: give data\.records="):
        records.files(tmp_path)


def test_shards_in_subfolders_are_named(tmp_path):
    touch(tmp_path, "a.jsonl", "deep/f.jsonl")
    with pytest.raises(UserError, match=r"in the folder itself and in deep\. Read all with a pattern"):
        records.files(tmp_path)
    assert [file.name for file in records.files(f"{tmp_path}/**/*.jsonl")] == ["a.jsonl", "f.jsonl"]


@pytest.mark.parametrize("name", ["b.zip", "b.jsonl.bz2", "b.arrow", "b.tar.gz", "b.JSONL.XZ", "b.xlsx", "b.jsonl.part"])
def test_data_that_cannot_be_read_is_named(tmp_path, name):
    touch(tmp_path, "a.jsonl", name)
    with pytest.raises(UserError) as raised:
        records.files(tmp_path)
    assert f": {name} can't be read as records" in str(raised.value)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a.jsonl")

    def refuse(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    for read in (records.sha256, records.check):
        with pytest.raises(UserError, match=r"a\.jsonl: can't be read \(Permission denied\)"):
            read([tmp_path / "a.jsonl"])
