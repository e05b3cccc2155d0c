"""How a large team waits, and how many jobs a second the dispatcher hands out."""
