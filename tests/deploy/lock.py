"""Takes the addresses out of npm's lock file, which it writes down for whoever wants to donate: `make lock`."""

import json
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("package-lock.json")


def main() -> None:
    lock = json.loads(LOCK_FILE.read_text(encoding="utf-8"))
    for package in lock["packages"].values():
        package.pop("funding", None)
        package.pop("resolved", None)
    LOCK_FILE.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
