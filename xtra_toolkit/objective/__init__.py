"""Compile a mask and a target into the plan that the models read, and refuse pairs that leak."""
