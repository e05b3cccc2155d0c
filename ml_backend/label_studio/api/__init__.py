"""Label Studio's API, one module a subject; :class:`~ml_backend.label_studio.client.LabelStudioClient` joins them."""
