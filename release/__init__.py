"""What makes a release, and proves that a wheel works where it is installed (docs/releasing.md)."""
