"""The command ``steerseg-backend``."""
