"""Asking a teacher: the protocol, the official client behind it, our own server as a teacher, the log of answers and the bill."""
