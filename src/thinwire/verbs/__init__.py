"""Verbs of the command that need no extra, or [cli]: each module has a `main(argv)`."""
