"""How quickly the backend answers many callers while a model works."""
