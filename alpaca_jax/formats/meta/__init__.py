"""Reads the files in which Meta and Mistral publish their weights."""
