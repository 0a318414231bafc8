"""The swarm: elastic, serverless training over a hivemind DHT."""
