"""What was asked and what happened: a run's folder is the truth, and nothing else remembers it."""
