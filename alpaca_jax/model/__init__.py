"""LLaMA in JAX: each weight is declared once; nothing here knows about data."""
