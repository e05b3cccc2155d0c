"""Clicks alone on a CPU."""
