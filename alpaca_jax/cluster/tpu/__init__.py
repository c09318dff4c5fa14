"""The TPU pod backend: a job's ranks run on the workers of slices from Google's queued resources."""
