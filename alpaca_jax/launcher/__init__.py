"""Hydra's multirun on top of `cluster`: each combination of settings is a job, of one process or on many hosts."""
