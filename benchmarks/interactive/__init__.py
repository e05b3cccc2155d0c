"""How long an annotator waits: the first expression, a further one, a click, a box and a stroke."""
