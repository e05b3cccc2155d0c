"""What develops the project and ships in no wheel."""
