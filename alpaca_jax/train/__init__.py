"""Fine-tunes a model on instruction records: records in, checkpoints and metrics out."""
