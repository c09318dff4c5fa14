"""The TFDS dataset of instruction records: versioned, with features, provenance, splits by the hash of a record's id, and statistics."""

import contextlib
import dataclasses
import io
from collections import Counter
from typing import Any

import numpy as np
import tensorflow_datasets as tfds  # needs no TensorFlow to write and read ArrayRecord
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from alpaca_jax import records
from alpaca_jax.data.origin import Origin, stored
from alpaca_jax.progress import track

FORMAT = "array_record"
PER_SHARD = 100_000
AT_ONCE = 4096  # records written between two updates of the dataset's own description


class InstructionRecords(FileReaderBuilder):
    """Instruction records in their order, with where each comes from; conversations have their later turns in `turns` (both as JSON).

    Written record by record: TFDS's own writer for generators would hold all of them in memory to sort them.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Conversations of several turns and system messages.", "1.0.0": "Single exchanges."}
    code_path = None  # TFDS would look beside the code for the checksums of downloads (and needs importlib_resources for that)

    def __init__(self, origin: Origin, heldout: np.ndarray | None = None, **place: Any) -> None:
        """`heldout`: which records belong to the split of that name, bool [N]; None: none of them."""
        self._origin, self._heldout = origin, heldout
        super().__init__(file_format=FORMAT, **place)

    def _info(self) -> tfds.core.DatasetInfo:
        self.statistics = tfds.core.MetadataDict()
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=features(), disable_shuffling=True, metadata=self.statistics
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        counted: Counter[str] = Counter()
        # TFDS has us write into a folder aside; the writer goes by the description's folder, so it gets one of its own.
        aside = dataclasses.replace(DatasetIdentity.from_builder(self), data_dir=str(self.data_dir))
        described = tfds.core.DatasetInfo(builder=aside, features=self.info.features, disable_shuffling=True)
        writer = tfds.core.SequentialWriter(described, PER_SHARD, file_format=FORMAT)
        writer.initialize_splits(["train"] if self._heldout is None else ["train", "heldout"])
        waiting: dict[str, list[dict[str, str]]] = {"train": [], "heldout": []}
        total = None if self._heldout is None else len(self._heldout)
        for number, record in enumerate(track(self._origin.stream(counted), "storing the records", total)):
            _count(record, counted)
            waiting["heldout" if self._heldout is not None and self._heldout[number] else "train"].append(stored(record))
            if number % AT_ONCE == AT_ONCE - 1:
                _flush(writer, waiting)
        _flush(writer, waiting)
        self.statistics.update(dict(counted) | {"source": self._origin.fingerprint})
        writer.close_all()
        self.info.set_splits(described.splits)


LAST = f"{InstructionRecords.name}/{InstructionRecords.VERSION}/dataset_info.json"  # what TFDS opens a dataset by


def features() -> tfds.features.FeaturesDict:
    """Returns the features of the dataset: texts, as `origin.stored` makes them of a record."""
    return tfds.features.FeaturesDict({name: tfds.features.Text() for name in stored(records.Record("", output="text"))})


def prepare(builder: tfds.core.DatasetBuilder, **config: Any) -> None:
    """Builds the dataset, quietly: the progress shown is ours. `config` goes into TFDS's DownloadConfig."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False, **config))


def _flush(writer: tfds.core.SequentialWriter, waiting: dict[str, list[dict[str, str]]]) -> None:
    writer.add_examples({split: items for split, items in waiting.items() if items})
    for items in waiting.values():
        items.clear()


def _count(record: records.Record, counted: Counter[str]) -> None:
    counted["records"] += 1
    counted["with_input"] += bool(record.input)
    counted["with_system"] += bool(record.system)
    counted["several_turns"] += bool(record.turns)
    counted["empty_output"] += not record.output
