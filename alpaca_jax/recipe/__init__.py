"""The stages chained, each a process of its own, resumable, with one report in the end."""
