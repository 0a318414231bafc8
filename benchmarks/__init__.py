"""A package, not only a folder: site-packages of other projects hold a `benchmarks` too, and it would win."""
