"""What exists: models, chat templates, datasets, devices; all of it without torch."""
