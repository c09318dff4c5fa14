"""LLaMA in JAX: each weight declared once; knows nothing of data."""
