"""The model process and what is said to it."""
