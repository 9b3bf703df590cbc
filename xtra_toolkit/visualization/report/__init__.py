"""Show runs on an HTML page and benchmark runs in the paper's table, for ``xtra report``."""
