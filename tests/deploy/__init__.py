"""deploy/, checked by the tools of those who will use it: `make test-deploy`."""
