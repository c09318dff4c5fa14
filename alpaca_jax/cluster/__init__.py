"""Starts, watches, restarts and ends the processes of one job; knows commands, folders and exit codes, but neither Hydra nor JAX.

Why a launcher of our own over Slurm, JobSet and TPU pods: what exists loses what a job of many hosts needs most. hydra-submitit-launcher
1.2.0, tried with jobs of two JAX processes, calls a job with a failed rank "completed successfully" while its peers hang until the time
limit; it has no `srun` arguments and so no --kill-on-bad-exit, returns only rank 0's result, writes all ranks into one log, and cannot act
on a requeue. JobSet and xpk restart by exit code alone. Users of other launchers report logs that don't come back, secrets missing on the
workers, finished runs that start again, and (SkyPilot's default) restarts from scratch instead of from the checkpoint. The services do
what they do well: queueing, placement, preemption, JobSet's restarts and srun's kill of a failed step. Ours is what one job.json needs on
top, the same on each: a log per rank, the first failure by rank and host, and restarts only while checkpoints make progress.
"""
