"""The WAN lab: open it, start programs in its regions, change its links, read its counters; see `open_lab`."""
