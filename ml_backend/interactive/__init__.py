"""Answers to an annotator's prompts while the task is open."""
