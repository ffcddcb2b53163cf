"""A cluster in one thread: the real replication code on a simulated network, clock and disk."""
