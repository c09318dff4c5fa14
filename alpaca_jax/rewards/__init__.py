"""Rewards that can be verified: a number for each answer, from small functions of (prompt, answer, key).

`train` learns from them (`objective=grpo`); they know nothing of training, so that other verbs may score answers with them too.
"""
