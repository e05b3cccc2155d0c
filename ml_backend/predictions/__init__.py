"""Predictions of tasks: in batches, late, and anew after a promotion."""
