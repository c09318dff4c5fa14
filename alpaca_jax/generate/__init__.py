"""`generate`: from a teacher and a budget to instruction records."""
