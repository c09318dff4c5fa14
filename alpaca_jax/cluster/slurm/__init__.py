"""The Slurm backend: a job is one batch job whose script supervises the ranks that `srun` starts."""
