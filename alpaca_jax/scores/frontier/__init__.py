"""Dollars against quality: the runs of a sweep on one picture, the front among them, and what the next halving of the loss costs."""
