"""`validate`: whether a dataset is whole, and whether a trainer will read it."""
