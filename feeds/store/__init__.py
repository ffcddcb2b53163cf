"""Ordered key-value stores: the protocol, a memory twin and RocksDB."""
