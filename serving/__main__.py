"""`python -m serving` is the `headwater` command, wherever its script lies."""

from serving.cli import main

main()
