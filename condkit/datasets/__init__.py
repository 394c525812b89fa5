"""Paired datasets on the disk: finding inputs, planning shards, writing and reading them."""
