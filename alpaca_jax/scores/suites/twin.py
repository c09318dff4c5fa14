"""A task's data from JSONL on disk, for machines that don't reach the hub: the task stays what it is."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError

LARGEST = 2**30  # bytes of a file
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")  # the keys of a task that name one


@dataclasses.dataclass(frozen=True)
class Twin:
    """The files of one task: FOLDER/CONFIG/SPLIT.jsonl, with a line for each question, in the columns of the hub's data set."""

    folder: Path
    task: Mapping[str, Any]  # its YAML
    shots: int

    def config(self) -> dict[str, Any]:
        """The task's YAML with these files in the place of the hub; a UserError where one that is needed is missing."""
        made = dict(self.task)
        files = {split: self._file(split) for split in {str(made[key]) for key in SPLITS if made.get(key)}}
        if missing := [str(files[split]) for split in sorted(self._needed()) if not files[split].is_file()]:
            raise UserError(f"{' and '.join(missing)}: missing; {self.task['task']} needs a line there for each row of {self.place()}")
        for key in SPLITS:
            if made.get(key) and not files[str(made[key])].is_file():
                made[key] = None
        there = {split: file for split, file in files.items() if file.is_file()}
        contents = {split: documents.read(file, LARGEST) for split, file in there.items()}
        digests = {str(there[split]): hashlib.sha256(content).hexdigest() for split, content in contents.items()}
        metadata = made.get("metadata")
        made["metadata"] = (metadata if isinstance(metadata, dict) else {"version": metadata}) | {"local_data": digests}
        made["custom_dataset"] = _data_set({split: _rows(there[split], content) for split, content in contents.items()})
        return made

    def place(self) -> str:
        """What the task is called on the hub."""
        name = self.task.get("dataset_name")
        return f"{self.task.get('dataset_path')}{f' ({name})' if name else ''}"

    def _file(self, split: str) -> Path:
        name = self.task.get("dataset_name")
        return self.folder / str(name) / f"{split}.jsonl" if name else self.folder / f"{split}.jsonl"

    def _needed(self) -> set[str]:
        task = self.task
        asked = task.get("test_split") or task.get("validation_split")
        fewshot = task.get("fewshot_config") or {}
        given = fewshot.get("split") or task.get("fewshot_split")
        examples = given or task.get("training_split") or task.get("validation_split") or task.get("test_split")
        needed = {asked} | ({examples} if self.shots and not fewshot.get("samples") else set())
        return {str(split) for split in needed if split}


def _rows(file: Path, content: bytes) -> list[dict[str, Any]]:
    lines = enumerate(content.splitlines(), start=1)
    rows = [documents.json_object(line, f"{file}, line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise UserError(f"{file} is empty; a question a line is due there")
    return rows


def _data_set(rows: Mapping[str, list[dict[str, Any]]]) -> Callable[..., Any]:
    """What the harness calls to load a task's data."""

    def load(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({split: Dataset.from_list(own) for split, own in rows.items()})

    return load
