"""What choices beside the published code cost or gain, measured on the demo."""
