"""Loopback servers over the embedded model, one file per dialect, after the documentation of the version it names."""
