"""Ours against its peer, in turns, on the machine at hand; one script a question, one JSON line a script."""
