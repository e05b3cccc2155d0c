"""HTTP: the app, its pages, who may ask, and the server that runs it."""
