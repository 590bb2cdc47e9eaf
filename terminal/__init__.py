"""What is seen in a terminal: the same jobs and run folders as on the page."""
