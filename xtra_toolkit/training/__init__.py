"""Do what ``xtra train`` does before and around MMPretrain's training script."""
