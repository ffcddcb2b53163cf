"""The feed engine: activities, follows, fan-out, counters and the durable log below them."""
