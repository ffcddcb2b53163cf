"""Training: from an exported event log to an evaluated, published model."""
