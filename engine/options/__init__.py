"""What may be asked: every option of every job, declared once."""
