"""The swarm: members that come and go, and agree on every round before anybody applies it."""
