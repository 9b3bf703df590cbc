"""What ``xtra compare`` and ``xtra demo`` run: images, pretraining, probes, results, plots."""
