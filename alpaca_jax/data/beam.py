"""The TFDS dataset of more records than one machine can take, written by an Apache Beam pipeline (the extra `beam`).

    from alpaca_jax.data import beam
    beam.build("gs://bucket/records/*.jsonl", "gs://bucket/datasets", heldout=0.001, options=["--runner=DataflowRunner", ...])

Then train with `data.records=tfds:FOLDER`, where FOLDER is what `build` returns.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from alpaca_jax import records
from alpaca_jax.data.instructions import FORMAT, features, prepare
from alpaca_jax.data.origin import stored
from alpaca_jax.errors import UserError


class ShardedInstructionRecords(tfds.core.GeneratorBasedBuilder):
    """Instruction records, each file read by any free worker; TFDS orders them by the hash of file and record number."""

    VERSION = tfds.core.Version("2.0.0")
    code_path = None  # see instructions.py

    def __init__(self, paths: Sequence[str], heldout: float, on_error: records.OnError, **place: Any) -> None:
        """`heldout`: the share of records for the split of that name; it gets those whose texts have the lowest hashes."""
        self._paths, self._on_error = list(paths), on_error
        self._bound = int(heldout * 2**64)
        super().__init__(file_format=FORMAT, **place)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features())

    def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:
        import apache_beam as beam

        bound, on_error = self._bound, self._on_error
        read = pipeline | beam.Create(self._paths) | beam.Reshuffle() | beam.FlatMap(_read, on_error)
        kept = {"train": read | "train" >> beam.Filter(lambda item: records.text_rank(item[1]) >= bound)}
        if bound:
            kept["heldout"] = read | "heldout" >> beam.Filter(lambda item: records.text_rank(item[1]) < bound)
        return {split: items | f"texts of {split}" >> beam.MapTuple(_texts) for split, items in kept.items()}

    def _generate_examples(self) -> Iterator[Any]:
        raise AssertionError("_split_generators returns Beam collections")


def build(
    path: str | Path, folder: str | Path, heldout: float = 0.0, on_error: records.OnError = "stop", options: Sequence[str] = ()
) -> Path:
    """Builds the dataset of the records at `path` (see `records.files`) and returns its folder; a UserError without the extra.

    `options` are those of Beam, such as its runner.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("Apache Beam is not installed: pip install 'alpaca-jax[beam]', in an environment of its own") from error
    builder = ShardedInstructionRecords([str(file) for file in records.files(path)], heldout, on_error, data_dir=str(folder))
    prepare(builder, beam_options=PipelineOptions(list(options)))
    return Path(str(builder.data_path))


def _read(path: str, on_error: records.OnError) -> Iterator[tuple[str, records.Record]]:
    for number, record in enumerate(records.stream([Path(path)], on_error, Counter())):
        yield f"{path}:{number}", record


def _texts(key: str, record: records.Record) -> tuple[str, dict[str, str]]:
    return key, stored(record)
