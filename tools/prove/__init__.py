"""Claims that take minutes to prove; each script exits non-zero where its claim fails."""
