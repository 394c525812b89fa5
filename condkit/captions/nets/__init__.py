"""The networks that caption; torch is imported inside functions."""
