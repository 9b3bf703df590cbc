"""Count the classes of a data set."""

COUNTED = 100_000  # largest data set whose labels are all read to count the classes


def names_of(dataset: object) -> tuple[str, ...]:
    """Return the class names in the metainfo of a data set; empty if it has none."""
    return tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())


def classes_of(dataset: object) -> int | None:
    """Count the classes of a data set by their names, or by its labels if it is small.

    Return None if neither is possible.
    """
    if names := names_of(dataset):
        return len(names)
    try:
        if len(dataset) > COUNTED:
            return None
        return int(dataset.get_gt_labels().max()) + 1
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
