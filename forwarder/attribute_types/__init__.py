"""Which type each attribute of each event name has, and what becomes of an event that differs."""
