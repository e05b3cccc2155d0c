"""What annotators type: expressions, which name objects, and commands, which rearrange them."""
