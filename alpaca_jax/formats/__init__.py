"""Checkpoints of every project, read and written as one thing.

`pretrained` opens any source as a `model.Pretrained`. Below it `names` has the one table of names and layouts, `tensors` reads pieces of
our weights by it, `files`, `safetensors` and `pickled` read pieces of files. A file of one format begins with its name: `huggingface*`,
`gguf*`, `meta*`, `adapter*` (with `lora`), `difference` (with `float_difference`), `native` and `orbax_export` for our own training folder.
What is written appears whole through `partial`.
"""
