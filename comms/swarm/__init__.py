"""A swarm: members that come and go, found through a hivemind DHT, with replicas that stay identical bit for bit."""
