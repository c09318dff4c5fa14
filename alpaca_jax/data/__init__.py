"""From instruction records to batches: tokenizer, template, example, pack, pipeline and builder (TFDS)."""
