"""The TPU pod backend: a job's ranks run on the workers of slices, which are Google Cloud's queued resources."""
