"""Training of the demo's models, and making of its assets."""
