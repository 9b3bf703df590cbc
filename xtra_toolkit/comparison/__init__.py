"""Run the parts of ``xtra compare`` and ``xtra demo``: images, pretraining, probes, results."""
