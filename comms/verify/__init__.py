"""Proofs of who computed what: activations, randomness that came later, and one verdict a rollout."""
