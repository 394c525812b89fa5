"""`python -m condkit`: the same as the `condkit` command."""

from condkit.cli import main

main()
