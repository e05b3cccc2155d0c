"""How memory grows while a long video is tracked."""
