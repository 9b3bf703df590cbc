"""Convert weights between the names of other repositories and those of this toolkit."""
