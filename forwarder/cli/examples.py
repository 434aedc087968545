"""Examples for the help of each command and action; a test parses every one. Imported only to show help."""

from collections.abc import Mapping, Sequence
from typing import Final

EXAMPLES: Final[Mapping[str, Sequence[str]]] = {
    "run": (
        "GROWLYTICS_API_KEY=... growlytics-forwarder run",
        "growlytics-forwarder run --config /etc/growlytics-forwarder/config.toml",
        "growlytics-forwarder run --set buffer.directory=./growlytics-buffer --set log.level=debug",
    ),
    "check-config": (
        "growlytics-forwarder check-config --config /etc/growlytics-forwarder/config.toml",
        "growlytics-forwarder check-config --show       # the effective settings, secrets masked",
        "growlytics-forwarder check-config --connect    # is Growlytics reachable, too?",
        "growlytics-forwarder check-config --strict --json",
    ),
    "config": ("growlytics-forwarder config init",),
    "config init": (
        "growlytics-forwarder config init",
        "growlytics-forwarder config init /etc/growlytics-forwarder/config.toml",
        "growlytics-forwarder config init - | less",
    ),
    "healthcheck": (
        "growlytics-forwarder healthcheck",
        "growlytics-forwarder healthcheck --url http://127.0.0.1:9920",
    ),
    "status": (
        "growlytics-forwarder status",
        "growlytics-forwarder status --json | jq .headline.text",
    ),
    "top": ("growlytics-forwarder top", "growlytics-forwarder top --once"),
    "diagnose": (
        "growlytics-forwarder diagnose",
        "growlytics-forwarder diagnose --config /etc/growlytics-forwarder/config.toml --json",
    ),
    "bundle": (
        "growlytics-forwarder bundle bundle.tar.gz",
        "kubectl exec POD -c growlytics-forwarder -- growlytics-forwarder bundle - > bundle.tar.gz",
    ),
    "tap": (
        "growlytics-forwarder tap",
        "growlytics-forwarder tap --name 'Order Completed' --json",
    ),
    "send": (
        "growlytics-forwarder send --customer 42 --name 'Signed Up' --attribute Plan=pro",
        "growlytics-forwarder send --unix-socket /run/growlytics-forwarder/intake.sock --customer 42 --name 'Signed Up'",
    ),
    "load": (
        "growlytics-forwarder load events.ndjson",
        "growlytics-forwarder dead-letters export | growlytics-forwarder load -",
    ),
    "lint": ("growlytics-forwarder lint events.ndjson", "growlytics-forwarder lint --types types.toml events.ndjson"),
    "dead-letters": (
        "growlytics-forwarder dead-letters list",
        "growlytics-forwarder dead-letters replay --reason rejected --dry-run",
    ),
    "dead-letters list": (
        "growlytics-forwarder dead-letters list --reason rejected --limit 20",
        "growlytics-forwarder dead-letters list --name 'Signed Up' --since 2h",
    ),
    "dead-letters bury": ("growlytics-forwarder dead-letters bury 1234",),
    "erase": (
        "growlytics-forwarder erase --customer 42 --dry-run",
        "growlytics-forwarder erase --customer 42 --yes --json",
    ),
    "dead-letters show": ("growlytics-forwarder dead-letters show 1234",),
    "dead-letters replay": (
        "growlytics-forwarder dead-letters replay --id 1234",
        "growlytics-forwarder dead-letters replay --all --dry-run",
        "growlytics-forwarder dead-letters replay --reason expired --rate 50",
    ),
    "dead-letters export": ("growlytics-forwarder dead-letters export > dead-letters.ndjson",),
    "dead-letters purge": (
        "growlytics-forwarder dead-letters purge --id 1234",
        "growlytics-forwarder dead-letters purge --reason expired --since 3d --dry-run",
    ),
    "attribute-types": ("growlytics-forwarder attribute-types list",),
    "attribute-types forget": ("growlytics-forwarder attribute-types forget 'Add To Cart' Price",),
    "attribute-types export": ("growlytics-forwarder attribute-types export > types.toml",),
    "attribute-types import": ("growlytics-forwarder attribute-types import types.toml",),
    "demo": ("growlytics-forwarder demo", "growlytics-forwarder demo --serve    # to try it by hand"),
    "sandbox": (
        "growlytics-forwarder sandbox --http 127.0.0.1:9000 --key test",
        "growlytics-forwarder sandbox --http 127.0.0.1:9000 --key test --fail-rate 0.2 --fail-status 503",
    ),
    "completion": (
        "source <(growlytics-forwarder completion bash)    # now; in ~/.bashrc for always",
        "growlytics-forwarder completion bash > ~/.local/share/bash-completion/completions/growlytics-forwarder",
        'growlytics-forwarder completion zsh > "${fpath[1]}/_growlytics-forwarder"',
        "growlytics-forwarder completion fish > ~/.config/fish/completions/growlytics-forwarder.fish",
    ),
}
