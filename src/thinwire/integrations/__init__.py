"""Adapters for frameworks, only where one needs them: each module imports its framework, and nothing else here does."""
