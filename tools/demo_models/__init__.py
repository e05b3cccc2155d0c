"""What trained the demo's models and drew its assets."""
