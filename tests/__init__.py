"""The tests; a package of its own, since a wheel that is installed with mmsegmentation brings a `tests` too."""
