"""People's blind votes on pairs of answers, and how far people, a judge and a rule of thumb agree."""
