"""The engine: everything Lathe does, without knowing that a page exists."""
