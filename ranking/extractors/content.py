"""What an activity is like, whoever looks at it."""

from ranking.extractors.base import Feature

__all__ = ["FEATURES"]

FEATURES = (
    Feature(
        "tag_count",
        "content",
        "count",
        "How many tags the activity has; at most 8 are counted.",
        lambda inputs: inputs.tag_counts,
    ),
    Feature(
        "feed_count",
        "content",
        "count",
        "How many feeds the activity was posted to, its home feed included; at most 8 are counted.",
        lambda inputs: inputs.feed_counts,
    ),
    Feature(
        "length_bytes",
        "content",
        "bytes",
        "Length of the encoded activity.",
        lambda inputs: inputs.length_bytes,
    ),
)
