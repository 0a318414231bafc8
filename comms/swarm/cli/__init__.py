"""The verbs of `thinwire` that work with a swarm: one module a verb, each with `main(argv)`."""
