"""Accepted annotations as datasets in the formats that other programs read."""
