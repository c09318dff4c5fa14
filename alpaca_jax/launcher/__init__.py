"""Hydra's multirun over `cluster`: each combination is a job of its own, on one process or on many hosts."""
