"""Serving: the composition root, the HTTP API and the `headwater` command."""
