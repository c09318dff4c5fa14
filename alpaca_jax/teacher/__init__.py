"""Whoever answers: one small protocol, the official client behind it, our own server as a teacher, and the bill."""
