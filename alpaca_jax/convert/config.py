"""The settings of `alpaca-jax convert`."""

from typing import Literal

from alpaca_jax import storage
from alpaca_jax.config import configclass
from alpaca_jax.ranges import Natural


@configclass
class Config:
    """One conversion."""

    dir: str
    source: str  # a training run or one of its checkpoints, a known name, org/name, a local folder or file
    target: str  # a folder or file that doesn't exist yet
    base: str | None = None  # the model that a LoRA adapter is merged into or a weight difference is added to
    merge: bool = False  # the adapter of a run into its base, instead of writing a PEFT folder
    merge_into: Literal["quantised", "original"] = "quantised"  # of a base in four bits: what the adapter was trained on, or its own file
    heldout: Natural = 64  # of the run's held-out records, those that both merges of such a base are compared on; 0: they aren't
    to: Literal["huggingface", "gguf", "orbax"] | None = None  # null: guessed from target
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] | None = None  # null: that of most weights
    verify: bool = False  # compare the logits of source and result
    dry_run: bool = False  # list what would be read and written, and stop
    tokenizer: str | None = None  # a folder or file, where the source has none
    cache: str | None = None  # folder of downloaded models; null: ~/.cache/alpaca_jax/models
    license: str | None = None  # of the weights, for the model card: an identifier of the hub, such as apache-2.0

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty: give {'a model' if name == 'source' else 'a folder or file that does not exist yet'}")
        if storage.is_remote(self.target):
            raise ValueError(
                f"target={self.target}: a conversion can only be written to a disk; give a local folder, and copy it to the store"
            )
        if self.dtype == "q8_0" and self.kind != "gguf":
            raise ValueError(f"dtype=q8_0 is for GGUF files, but target={self.target} is {self.kind}: give target=NAME.gguf")

    @property
    def kind(self) -> str:
        """The format of the target."""
        endings = {".gguf": "gguf", ".orbax": "orbax"}
        return self.to or next((kind for ending, kind in endings.items() if self.target.endswith(ending)), "huggingface")
