"""Checkpoints of other projects: Hugging Face, GGUF, and our own training folder, read as one thing."""
