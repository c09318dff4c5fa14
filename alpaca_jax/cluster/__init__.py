"""Starts, watches, restarts and ends the processes of one job; deals in commands, folders and exit codes, not in Hydra or JAX."""
