"""The demonstration: Label Studio and the backend side by side, with sample videos already pre-annotated."""
