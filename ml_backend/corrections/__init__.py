"""What annotators accepted: read from annotations, completed, kept and counted."""
