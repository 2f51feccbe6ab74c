"""The files whose tests take longest come first: so two processes end at about the same time (see Makefile)."""

LONGEST = ("gradients", "crossval", "interrupted", "model", "site", "neural", "greenness", "devices", "learning", "experiment", "uncertainty", "cli", "calibration", "tutorials")


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
