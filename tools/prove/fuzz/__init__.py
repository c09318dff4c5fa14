"""Damaged inputs of every verb: each is read or refused, never a traceback, a hang, or a gigabyte of memory."""
