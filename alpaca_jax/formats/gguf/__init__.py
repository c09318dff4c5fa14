"""GGUF files, as llama.cpp reads and writes them: header, tokenizer and weights, both ways."""
