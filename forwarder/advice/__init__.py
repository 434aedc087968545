"""What the daemon's status means, what is wrong with its cause, and what to do about it. Pure; only `status` uses it."""
