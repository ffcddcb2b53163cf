"""Features as of any moment of a log, for many requests at once: sort, cumulate, search."""
