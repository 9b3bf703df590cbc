"""Finished benchmark runs as the paper's table, with the paper's own figures beside them."""
