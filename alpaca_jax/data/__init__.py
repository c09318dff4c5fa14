"""From instruction records to batches: templates, examples, packing, plans, the pipeline (tf.data) and the builder (TFDS)."""
