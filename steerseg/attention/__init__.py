"""Attention rolled out from the response token to the visual tokens."""
