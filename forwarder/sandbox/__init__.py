"""A stand-in for Growlytics, for tests and for trying things out; no part of the daemon."""
