"""Meaning: what is not there, several objects, and free wordings, on fixed manifests of the demo's world."""
