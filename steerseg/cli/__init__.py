"""The command line of the library: one module a subcommand."""
