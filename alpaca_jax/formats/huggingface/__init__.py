"""The folders of `transformers`: configs, safetensors shards and tokenizer, both ways."""
