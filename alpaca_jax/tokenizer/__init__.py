"""Text to token ids and back, for every kind of tokenizer a LLaMA comes with: SentencePiece, tokenizer.json and tiktoken."""

from alpaca_jax.tokenizer.sandbox import Rendered, tracks
from alpaca_jax.tokenizer.tokenizer import TextStream, Tokenizer

__all__ = ["Rendered", "TextStream", "Tokenizer", "tracks"]
