"""The backend's own pages: what it does and what it has learned, rendered by the server."""
