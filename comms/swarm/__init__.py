"""The swarm: members that come and go, found over a hivemind DHT, agreed on every round by a protocol of our own."""
