"""Claims that take minutes to prove; each script exits non-zero if its claim fails."""
