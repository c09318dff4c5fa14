"""Pairs of answers compared by a judge: the prompt, the verdicts, the log in which each is paid for once, and what follows from them."""
