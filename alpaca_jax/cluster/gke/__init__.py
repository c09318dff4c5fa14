"""The Kubernetes backend: a job is a JobSet on GKE's TPU slices or GPU nodes."""
