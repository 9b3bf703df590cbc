"""Print and draw the objective of a pretraining config, for ``xtra show``."""
