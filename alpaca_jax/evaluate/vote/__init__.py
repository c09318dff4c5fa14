"""A blind page on which people vote on the answers that a judge saw."""
