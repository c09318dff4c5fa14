"""From a teacher and a budget to a fine-tuned LLaMA, its score, its Hugging Face checkpoint and its bill."""

__version__ = "0.1.0"
