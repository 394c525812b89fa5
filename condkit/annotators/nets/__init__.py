"""Networks: reading their weight files and running them on prepared batches."""
