"""The bounded store of accepted events: its protocol, and the stores that keep it."""
