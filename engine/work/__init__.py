"""How it is done: the heavy rooms, each job in a process of its own."""
