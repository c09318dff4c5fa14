"""From `key=value` and YAML to one mapping, through Hydra: what files and words may say, and that none of it runs code."""
