"""The durable log and the replica that applies it."""
