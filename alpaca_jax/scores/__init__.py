"""How good a model is: its loss on held-out answers, and what it answers to fixed prompts."""
