"""Instruction records: read in the shapes the field uses, written in one, split the same way everywhere, described by a manifest."""

from alpaca_jax.records.files import beside, files, sha256
from alpaca_jax.records.items import check
from alpaca_jax.records.manifest import MANIFEST, Manifest
from alpaca_jax.records.reading import Records, read, stream
from alpaca_jax.records.record import FILE, OnError, Record, write
from alpaca_jax.records.split import heldout_ids, rank, text_rank

__all__ = [
    "FILE",
    "MANIFEST",
    "Manifest",
    "OnError",
    "Record",
    "Records",
    "beside",
    "check",
    "files",
    "heldout_ids",
    "rank",
    "read",
    "sha256",
    "stream",
    "text_rank",
    "write",
]
