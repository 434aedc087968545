"""From the buffer to Growlytics: which event next, when again, and what became of it."""
