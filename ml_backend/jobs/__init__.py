"""Units of model work: their queue, progress and list."""
