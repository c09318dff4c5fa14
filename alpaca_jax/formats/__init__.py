"""Checkpoints of every project: all are opened as one type and written from it.

`pretrained` opens any source as a `model.Pretrained`. `names` is the table of names and layouts in every format; with it `tensors` reads
pieces of our weights. `files`, `safetensors` and `pickled` read pieces of files. `huggingface/`, `gguf/`, `meta/` and `adapter/` are the
formats of others, `native` is our own training folder, `difference` adds weight differences, `base` is what frozen weights are read from.
Every export uses `writing`, so that its target appears whole or not at all.
"""
