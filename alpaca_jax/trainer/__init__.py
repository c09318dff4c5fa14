"""State, loss, optimizer and step: what `train` runs."""
