"""What a pretraining config does, printed and drawn: ``xtra show``."""
