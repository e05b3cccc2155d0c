"""Proposals as files and pictures."""
