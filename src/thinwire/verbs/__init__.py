"""Verbs of the command that need no extra: each module has a `main(argv)`."""
