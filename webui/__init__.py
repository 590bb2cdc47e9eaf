"""What is seen: the web page. It reads run folders and starts jobs; it never loads a model."""
