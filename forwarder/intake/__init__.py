"""The ways in: one module for each, over the same acceptance of events."""
