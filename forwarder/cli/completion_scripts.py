"""The completion scripts of bash, zsh and fish, made of the places of the command line. Pure; `completion` prints them.

Each script walks over the words before the cursor to find the place: an option may take the next word, all others name the
command or its action. Then it offers what can follow there. No script needs a package of completions, or the command itself.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from forwarder.cli.completion import Completions, Value, flags

_BASH: Final = """\
# Completes {program} in bash; `{program} completion bash` wrote it.
{function}() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" place="" flag="" taker="" word i IFS=$'\\n'
    COMPREPLY=()
    for ((i = 1; i <= COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        if [[ $word == = ]]; then # bash makes a word of its own of it
            taker=$flag
            [[ $i == "$COMP_CWORD" ]] && cur=""
        elif [[ $i == "$COMP_CWORD" ]]; then
            break
        elif [[ -n $taker ]]; then
            taker=""
        elif [[ $word == -* ]]; then
            flag=$word
            case "$place $flag" in
{takers}
            esac
        else
            flag=""
            case "${{place:+$place }}$word" in
{places}
            esac
        fi
    done
    local kind="" words="" options=""
    if [[ -n $taker ]]; then
        case "$place $taker" in
{values}
        esac
    else
        case "$place" in
{following}
        esac
        [[ $cur == -* ]] && kind=words words=$options
    fi
    case $kind in
    words) COMPREPLY=($(compgen -W "${{words// /$'\\n'}}" -- "$cur")) ;;
    settings)
        compopt -o nospace 2>/dev/null
        COMPREPLY=($(compgen -S = -W "${{words// /$'\\n'}}" -- "$cur"))
        ;;
    files)
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$cur"))
        ;;
    directories)
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -d -- "$cur"))
        ;;
    esac
}}
complete -F {function} {program}
"""

_ZSH: Final = """\
#compdef {program}
# Completes {program} in zsh; `{program} completion zsh` wrote it.
_{program}() {{
    local place="" flag="" taker="" word
    local -a entries
    integer i
    for ((i = 2; i < CURRENT; i++)); do
        word=${{words[i]}}
        if [[ -n $taker ]]; then
            taker=""
        elif [[ $word == -*=* ]]; then
            :
        elif [[ $word == -* ]]; then
            flag=$word
            case "$place $flag" in
{takers}
            esac
        else
            case "${{place:+$place }}$word" in
{places}
            esac
        fi
    done
    if [[ -z $taker && $PREFIX == --*=* ]]; then
        taker=${{PREFIX%%=*}}
        compset -P '*='
    fi
    if [[ -n $taker ]]; then
        case "$place $taker" in
{values}
        esac
    elif [[ $PREFIX == -* ]]; then
        case "$place" in
{options}
        esac
        _describe -o option entries
    else
        case "$place" in
{following}
        esac
    fi
}}
if [[ ${{funcstack[1]}} == _{program} ]]; then
    _{program} "$@" # loaded from fpath
else
    compdef _{program} {program}
fi
"""

_FISH: Final = """\
# Completes {program} in fish; `{program} completion fish` wrote it.
set -g {function}_takers {takers}
set -g {function}_places {places}
function {function}_at
    set -l place ''
    set -l takes 0
    for word in (commandline -opc)[2..-1]
        if test $takes = 1
            set takes 0
        else if string match -q -- '-*' $word
            contains -- "$place $word" ${function}_takers; and set takes 1
        else
            set -l longer (string trim -- "$place $word")
            contains -- $longer ${function}_places; and set place $longer
        end
    end
    test "$place" = "$argv"
end
complete -c {program} -f
{lines}
"""


def _bash(program: str, places: Sequence[Completions]) -> str:
    def value(found: Value) -> str:
        words = f" words={shlex.quote(' '.join(found.words))}" if found.words else ""
        return f"kind={found.kind}{words}"

    def following(place: Completions) -> str:
        options = f"options={shlex.quote(' '.join(flags(place.options)))}"
        if place.next:
            return f"kind=words words={shlex.quote(' '.join(place.next))} {options}"
        return f"{value(place.argument)} {options}" if place.argument else options

    return _BASH.format(
        program=program,
        function=_function(program),
        takers=_case((key for key, _ in _takers(places)), lambda _: "taker=$flag", 12),
        places=_case(
            (" ".join(each.path) for each in places if each.path), lambda key: f"place={shlex.quote(key)}", 12
        ),
        values=_cases({key: value(found) for key, found in _takers(places)}, 8),
        following=_cases({" ".join(each.path): following(each) for each in places}, 8),
    )


def _zsh(program: str, places: Sequence[Completions]) -> str:
    def value(found: Value) -> str:
        match found.kind:
            case "words":
                return f"compadd -- {shlex.join(found.words)}"
            case "settings":
                return f"compadd -S = -- {shlex.join(found.words)}"
            case "files":
                return "_files"
            case "directories":
                return "_files -/"
            case _:
                return ":"

    def described(entries: Mapping[str, str]) -> str:
        return f"entries=({shlex.join(f'{name}:{text}' for name, text in entries.items())})"

    def following(place: Completions) -> str:
        if place.next:
            return f"{described(place.next)}; _describe {'action' if place.path else 'command'} entries"
        return value(place.argument) if place.argument else ":"

    return _ZSH.format(
        program=program,
        takers=_case((key for key, _ in _takers(places)), lambda _: "taker=$flag", 12),
        places=_case(
            (" ".join(each.path) for each in places if each.path), lambda key: f"place={shlex.quote(key)}", 12
        ),
        values=_cases({key: value(found) for key, found in _takers(places)}, 8),
        options=_cases(
            {" ".join(each.path): described({one.flag: one.summary for one in each.options}) for each in places}, 8
        ),
        following=_cases({" ".join(each.path): following(each) for each in places}, 8),
    )


def _fish(program: str, places: Sequence[Completions]) -> str:
    return _FISH.format(
        program=program,
        function=_function(program),
        takers=shlex.join(key for key, _ in _takers(places)),
        places=shlex.join(" ".join(each.path) for each in places if each.path),
        lines="\n".join(line for each in places for line in _fish_lines(program, each)),
    )


def _fish_lines(program: str, place: Completions) -> Iterator[str]:
    """Yield the command that declares each thing which may follow at a place."""
    begin = f"complete -c {program} -n {shlex.quote(' '.join((f'{_function(program)}_at', *place.path)))}"
    for name, text in place.next.items():
        yield f"{begin} -a {name} -d {shlex.quote(text)}"
    for option in place.options:
        takes = f"{_fish_value(option.value)} " if option.value else ""
        yield f"{begin} -l {option.flag.lstrip('-')} {takes}-d {shlex.quote(option.summary)}"
    if place.argument and place.argument.kind == "files":
        yield f"{begin} -F"
    elif place.argument and place.argument.words:
        yield f"{begin} -a {shlex.quote(' '.join(place.argument.words))}"


def _fish_value(found: Value) -> str:
    match found.kind:
        case "words":
            return f"-x -a {shlex.quote(' '.join(found.words))}"
        case "settings":
            return f"-x -a {shlex.quote(' '.join(f'{each}=' for each in found.words))}"
        case "files":
            return "-r -F"
        case "directories":
            return "-x -a '(__fish_complete_directories)'"
        case _:
            return "-x"


def _takers(places: Sequence[Completions]) -> Iterator[tuple[str, Value]]:
    """Yield each option that takes a value, after its place and a space, with the value."""
    for place in places:
        for option in place.options:
            if option.value is not None:
                yield f"{' '.join(place.path)} {option.flag}", option.value


def _case(keys: Iterator[str], action: Callable[[str], str], indent: int) -> str:
    return _cases({key: action(key) for key in keys}, indent)


def _cases(actions: Mapping[str, str], indent: int) -> str:
    """Return the cases of a `case`; keys with the same action share one."""
    keys: dict[str, list[str]] = {}
    for key, action in actions.items():
        keys.setdefault(action, []).append(shlex.quote(key))
    return "\n".join(f"{' ' * indent}{' | '.join(some)}) {action} ;;" for action, some in keys.items())


def _function(program: str) -> str:
    return f"_{program.replace('-', '_')}"


WRITERS: Final[Mapping[str, Callable[[str, Sequence[Completions]], str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
