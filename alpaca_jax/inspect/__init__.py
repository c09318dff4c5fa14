"""Shows what a training run would read: the data sheet, and its first batches as a person reads them."""
