"""`inspect`: what is in a dataset, as numbers, as plots, and to look at."""
