"""Continue images or reconstruct their hidden patches, for ``xtra complete``."""
