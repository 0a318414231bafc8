"""The live page of a swarm."""
