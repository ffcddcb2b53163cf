"""The features, one family a file; the registry that lists them is `ranking.features`."""
