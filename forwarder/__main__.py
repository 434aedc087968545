"""Runs the command `growlytics-forwarder` for `python -m forwarder`."""

import sys

from forwarder.cli import main

if __name__ == "__main__":
    sys.exit(main())
