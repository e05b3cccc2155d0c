"""What this backend knows of Label Studio: its configs, its regions, its API."""
