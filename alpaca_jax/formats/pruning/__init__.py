"""A smaller model out of a larger one: which layers and widths it keeps, how they are chosen, and how its weights are read."""
