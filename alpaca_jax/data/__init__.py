"""From instruction records to batches: tokenizer, template, example, pack, pipeline (tf.data) and builder (TFDS)."""
