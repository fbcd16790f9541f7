"""Parses words on the command line into values that a function's signature accepts. No word is ever run as code."""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from spinup.arguments import Argument
from spinup.errors import UserError, closest, install, user_path


class Parser(argparse.ArgumentParser):
    """Parses the flags of a command that isn't an algorithm; mistakes become UserErrors."""

    def __init__(self, command: str, **kwargs: Any):
        super().__init__(prog=f"python -m spinup.run {command}", **kwargs)
        self.command = command

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            options = [name for action in self._actions for name in action.option_strings]
            self.error(f"unknown argument '{rest[0]}'{closest(rest[0], options)}")
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.command}: {message}")


# ---- literals

CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "none": None}
INT = re.compile(r"[+-]?\d+(_\d+)*")
FLOAT = re.compile(r"[+-]?((\d+(_\d+)*)?\.?\d+|\d+(_\d+)*\.)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE)
TOKEN = re.compile(r"""'[^']*'|"[^"]*"|[\[\](),]|[^\[\](),'"]+""")
MAX_LENGTH, MAX_NUMBER_LENGTH, MAX_NESTING = 10_000, 50, 20  # limits on malicious input, far above any real use


def literal(text: str) -> Any:
    """Parse an int, float, bool, None, quoted string, or a nested list or tuple of these; other text is returned as is.

    `64,64` is the list [64, 64], and words inside brackets are strings: `[relu,tanh]`.
    """
    if len(text) > MAX_LENGTH:
        return text
    items = _items(text)
    if items is None:
        return text
    if len(items) == 1 and not text.rstrip().endswith(","):
        return items[0]
    return text if any(isinstance(item, str) for item in items) else items


def _scalar(text: str) -> Any:
    text = text.strip()
    if text in CONSTANTS:
        return CONSTANTS[text]
    if len(text) <= MAX_NUMBER_LENGTH:
        if INT.fullmatch(text):
            return int(text)
        if FLOAT.fullmatch(text):
            return float(text)
    return text[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", text) else text


def _items(text: str) -> list | None:
    """The values between a text's top-level commas; None if its brackets, commas or quotes are malformed."""
    if "".join(TOKEN.findall(text)) != text:
        return None
    levels: list[list] = [[]]  # the items of each open bracket, the innermost last
    closing: list[str] = []
    item_next = True
    for token in TOKEN.findall(text):
        if token in "[(":
            if not item_next or len(levels) > MAX_NESTING:
                return None
            levels.append([])
            closing.append("]" if token == "[" else ")")
        elif token in "])":
            if not closing or closing.pop() != token:
                return None
            items = levels.pop()
            levels[-1].append(items if token == "]" else tuple(items))
            item_next = False
        elif token == ",":
            if item_next:
                return None
            item_next = True
        elif token.strip():
            if not item_next:
                return None
            levels[-1].append(_scalar(token))
            item_next = False
    return levels[0] if not closing and levels[0] else None


# ---- a function's parameters


class Parameter(NamedTuple):
    """A flag: its name, accepted types (none: any literal), default and line of help."""

    name: str
    types: frozenset = frozenset()
    default: Any = None
    help: str = ""
    item: type | None = None  # type of a list's items, if known
    sample: str = ""  # an example for error messages, if the default isn't a good one

    def describe(self) -> str:
        """The accepted types in words, such as "an int or None"."""
        names = {bool: "True or False", int: "an int", float: "a number", str: "a string", dict: "key by key"}
        items = {int: "ints", float: "numbers", str: "strings"}
        names[list] = f"a list of {items[self.item]}" if self.item in items else "a list"
        names[types.NoneType] = "None"
        hidden = {int} if float in self.types else set()
        return " or ".join(names[t] for t in names if t in self.types - hidden) or "a value"

    def example(self) -> str:
        """A value that the flag accepts."""
        if self.sample or self.default not in (None, "", ()):
            return self.sample or format_value(self.default)
        examples = {bool: "True", int: "10", float: "0.5", list: "[64,64]", str: "name"}
        return next((text for t, text in examples.items() if t in self.types), "1")


def format_value(value: Any) -> str:
    """A value as typed on the command line: [64,64] without spaces, strings without quotes."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(v) for v in value) + "]"
    return value if isinstance(value, str) else str(value)


def parameters(arguments: Iterable[Argument]) -> dict[str, Parameter]:
    """The arguments that the command line can set, as parameters; some can only be set from Python."""
    found = {}
    for argument in arguments:
        accepted, item = _types(argument)
        if accepted is not None:
            found[argument.name] = Parameter(argument.name, accepted, argument.default, argument.help, item)
    return found


def _types(argument: Argument) -> tuple[frozenset | None, type | None]:
    """A parameter's accepted types and the type of a list's items; (None, None) if it can only be set from Python."""
    annotation, default = argument.annotation, argument.default
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str):
        parts = [] if default is None else [type(default)]
    else:
        parts = list(argument.types)
    accepted: set[type] = set()
    item = None
    for part in parts:
        origin = typing.get_origin(part) or part
        if origin is typing.Literal:
            accepted.add(str)
        elif origin in (list, tuple, Sequence):
            accepted.add(list)
            inside = [*typing.get_args(part), *(type(v) for v in default or ())]
            item = inside[0] if inside else None
        elif origin in (bool, int, float, str, dict, types.NoneType):
            accepted.add(origin)
    return (None, None) if parts and not accepted - {types.NoneType} else (frozenset(accepted), item)


def convert(text: str | None, parameter: Parameter, flag: str) -> Any:
    """The value of a parameter from its text; None is a flag without a value, which means True.

    Raises UserError if the parameter doesn't accept the value.
    """
    wanted = parameter.types
    value = True if text is None else literal(text)
    if not wanted:
        if isinstance(value, str) and value.lstrip()[:1] in tuple("[("):
            raise UserError(f"{flag}: {shorten(value)} is not a list; write it as [64,64], without spaces")
        return value
    if value is None and types.NoneType in wanted:
        return None
    if isinstance(value, bool):
        if bool in wanted:
            return value
    elif isinstance(value, int | float):
        if int in wanted and float(value).is_integer():
            return int(value)
        if float in wanted:
            return float(value)
    elif isinstance(value, list | tuple) and list in wanted and _fits(value, parameter.item):
        return list(value)
    if str in wanted and text is not None:
        return text
    got = "" if text is None else f"; got {shorten(text)}"
    raise UserError(f"{flag} takes {parameter.describe()}, for example --{flag} {parameter.example()}{got}")


def _fits(values: Sequence, item: type | None) -> bool:
    accepted: tuple[type, ...] | None = {int: (int,), float: (int, float), str: (str,)}.get(item) if item else None
    return accepted is None or all(isinstance(v, accepted) and not isinstance(v, bool) for v in values)


def shorten(text: str, length: int = 40) -> str:
    """The text in quotes, on one line, truncated if it is long."""
    return repr(text if len(text) <= length else text[:length] + "...")


# ---- flags


class Flag(NamedTuple):
    """A flag as given: `--hid[h] [32] [64,64]` is Flag("hid", "h", ["[32]", "[64,64]"])."""

    name: str
    short: str | None
    values: list[str]


FLAG = re.compile(r"--?([^\W\d][\w:.-]*)(?:\[([^\[\]]*)\])?(?:=(.*))?", re.DOTALL)


def is_flag(word: str) -> bool:
    """Whether a word starts a flag; -1e-3, -.5, -inf and -1,2 are values."""
    return word.startswith("--") or (re.match(r"-[^\W\d]", word) is not None and word.lower() != "-inf")


def split_flags(words: Sequence[str]) -> list[Flag]:
    """Group words into flags with their values. Raises UserError for a value without a flag or a malformed flag."""
    flags: list[Flag] = []
    for word in words:
        if any("\ud800" <= c <= "\udfff" for c in word):  # represents a byte that is not valid UTF-8
            raise UserError(f"{shorten(word)} is not valid UTF-8")
        if not is_flag(word):
            if not flags:
                raise UserError(f"{shorten(word)} is not a flag; expected one, for example --env CartPole-v1")
            flags[-1].values.append(word)
            continue
        match = FLAG.fullmatch(word)
        if match is None:
            raise UserError(f"{shorten(word)} is not a flag; flags look like --gamma, --hid[h], --env_kwargs:key")
        name, short, value = match.groups()
        flags.append(Flag(name, short, [] if value is None else [value]))
    return flags


# ---- grid files


def read_grid_file(file: str) -> dict[str, list[str]]:
    """{flag: its values as words} from a TOML or YAML file. A list gives several values, a table gives "a:b" flags.

    Raises UserError if the file can't be read.
    """
    path = user_path(file)
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise UserError(f'grid: {file} must be a .toml or .yaml file of flags, such as: algo = "ppo"')
    try:
        text = path.read_text("utf-8-sig")  # Windows editors begin files with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"grid: cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
    try:
        table = _parse_toml(text) if path.suffix == ".toml" else _parse_yaml(text)
        if not isinstance(table, dict):
            raise UserError(f'grid: {file} must contain flags and their values, such as: algo = "ppo"')
        return {key: _words(key, value) for key, value in _leaves(table)}
    except ValueError as error:
        raise UserError(f"grid: {file}: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"grid: {file}: its lists or tables are nested too deeply, or contain themselves") from None


def _leaves(table: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested tables, with names like "a:b:c"."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}:")
        else:
            yield f"{prefix}{key}", value


def _parse_toml(text: str) -> dict:
    import tomllib

    return tomllib.loads(text)


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise UserError(f"grid: YAML files need: {install('yaml')}; TOML files work without it") from None

    class Loader(yaml.SafeLoader):
        """One that refuses a key given twice, as TOML does, instead of taking the last value."""

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1:
                    raise ValueError(f"{key} is given twice; several values are a list")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(error) from None
    except (AttributeError, LookupError) as error:  # from tags that don't fit their values, as in `!!int ""`
        raise ValueError(f"a tag (!!) doesn't fit its value ({type(error).__name__}: {error})") from None


def _words(key: str, value: Any) -> list[str]:
    """The values of one flag as words on the command line."""
    if value == []:
        raise ValueError(f"{key}: an empty list has no values; leave it out")
    try:
        return [_word(x) for x in (value if isinstance(value, list) else [value])]
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _word(value: Any) -> str:
    """A value as a word on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if value is None or isinstance(value, bool | int | float | str):
        return str(value)
    raise ValueError(f"{value!r} is not a number, string, boolean, list or table")
