"""The `headwater` command: finds every package's sub-commands, imports only the one that runs."""
