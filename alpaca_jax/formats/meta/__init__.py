"""The files in which Meta and Mistral publish their weights, read."""
