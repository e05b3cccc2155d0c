"""Videos on this machine as tasks of a Label Studio project."""
