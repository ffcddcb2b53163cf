"""The v2 API: a route parses, calls and renders."""
