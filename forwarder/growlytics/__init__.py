"""All that this project knows about Growlytics: its contract, its requests and its answers."""
