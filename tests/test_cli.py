"""Words to values: literals, the types of a signature, and flags. Malicious words raise UserError and nothing else."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinup.arguments import CHANGEABLE, Range, read
from spinup.errors import UserError
from spinup.experiments import cli
from spinup.experiments.cli import Flag, Parameter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("+7", 7),
        (" 5 ", 5),
        ("1_000_000", 1_000_000),
        ("1e6", 1e6),
        ("-1e-3", -1e-3),
        (".5", 0.5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1.5E3", 1500.0),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("True", True),
        ("false", False),
        ("None", None),
        ("none", None),
        ("64,64", [64, 64]),
        ("64, 64", [64, 64]),
        ("64,", [64]),
        ("-1,2", [-1, 2]),
        ("[64,64]", [64, 64]),
        ("[ 64 , 64 ]", [64, 64]),
        ("[64]", [64]),
        ("[]", []),
        ("(64,)", (64,)),
        ("(64)", (64,)),
        ("()", ()),
        ("[[1,2],(3,)]", [[1, 2], (3,)]),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("[1.5,True,None,x]", [1.5, True, None, "x"]),
        ("[relu,'a,b',\"]\"]", ["relu", "a,b", "]"]),
        ("'1'", "1"),
        ('"None"', "None"),
    ],
)
def test_literal(text, value):
    result = cli.literal(text)
    assert result == value
    assert type(result) is type(value)


NOT_LITERALS = (
    ["", "  ", "abc", "CartPole-v1", "torch.nn.Tanh", "json", "nan", "0x10", "1__0", "1_", "1e", "--", "1+1", "1.2.3"],
    ["a,b", "a,", "it's", "[64,", "[64]]", "[1)", "[1,,2]", "[,]", ",", "[1][2]", "'a' 'b'", "{'a': 1}", "lambda: 1"],
    ["__import__('os').system('true')", "[__import__('os').system('true')]", "().__class__", "[" * 21 + "]" * 21],
    ["[" * 100_000, "[" * 50_000 + "]" * 50_000, "9" * 100_000, "1e" + "9" * 1000, "-" * 100_000, "1," * 100_000],
)


@pytest.mark.parametrize("text", [text for row in NOT_LITERALS for text in row], ids=lambda text: text[:20])
def test_text_that_is_not_a_literal_is_returned_unchanged(text):
    assert cli.literal(text) == text
    assert isinstance(cli.literal(text), str)


def test_literal_of_the_deepest_nesting():
    value = cli.literal("[" * 20 + "]" * 20)
    for _ in range(19):
        (value,) = value
    assert value == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(VALUES)
def test_literal_inverts_format_value(value):
    assert cli.literal(cli.format_value(value)) == value


WORDS = st.text(max_size=30) | st.text("[](),'\" 01e.-+_aN", max_size=30)
TYPES = st.frozensets(st.sampled_from([int, float, bool, str, list, type(None)]))


@settings(deadline=None)
@given(WORDS)
def test_literal_accepts_any_text(text):
    def plain(value):
        return (
            all(map(plain, value))
            if type(value) in (list, tuple)
            else type(value) in (int, float, bool, str, type(None))
        )

    assert plain(cli.literal(text))


@settings(deadline=None)
@given(st.none() | WORDS, TYPES, st.sampled_from([None, int, float, str]))
def test_convert_returns_an_accepted_type_or_raises_one_line(text, types, item):
    message, value = "lr", None
    try:
        value = cli.convert(text, Parameter("lr", types, item=item), "lr")
    except UserError as error:
        message = str(error)
    else:
        assert not types or type(value) in types
    assert message.startswith("lr")
    assert len(message.splitlines()) == 1


INT, FLOAT, BOOL, STR, LIST = (frozenset({t}) for t in (int, float, bool, str, list))
NONE = frozenset({type(None)})


@pytest.mark.parametrize(
    ("types", "text", "value"),
    [
        (INT, "500", 500),
        (INT, "1e6", 1_000_000),
        (INT, "-3", -3),
        (INT, "2.0", 2),
        (FLOAT, "1", 1.0),
        (FLOAT, "-1e-3", -0.001),
        (FLOAT, "inf", math.inf),
        (FLOAT | NONE, "None", None),
        (INT | FLOAT, "3", 3),
        (INT | FLOAT, "3.5", 3.5),
        (BOOL, None, True),
        (BOOL, "false", False),
        (STR, "1", "1"),
        (STR, "json", "json"),
        (STR, "True", "True"),
        (STR, "None", "None"),
        (STR, "[64,64]", "[64,64]"),
        (STR, "'a'", "'a'"),
        (STR, "", ""),
        (STR | NONE, "None", None),
        (FLOAT | STR, "auto", "auto"),
        (FLOAT | STR, "2", 2.0),
        (LIST, "64,64", [64, 64]),
        (LIST, "(64,)", [64]),
        (LIST, "[]", []),
        (INT | LIST, "64", 64),
        (frozenset(), None, True),
        (frozenset(), "1", 1),
        (frozenset(), "abc", "abc"),
        (frozenset(), "[1,2]", [1, 2]),
    ],
)
def test_convert(types, text, value):
    result = cli.convert(text, Parameter("x", types, item=int), "x")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("parameter", "text", "message"),
    [
        (Parameter("epochs", INT, 500), "abc", "epochs takes an int, for example --epochs 500; got 'abc'"),
        (Parameter("epochs", INT, 500), "1.5", "epochs takes an int, for example --epochs 500; got '1.5'"),
        (Parameter("epochs", INT, 500), "True", "epochs takes an int, for example --epochs 500; got 'True'"),
        (Parameter("epochs", INT, 500), "inf", "epochs takes an int, for example --epochs 500; got 'inf'"),
        (Parameter("epochs", INT, 500), None, "epochs takes an int, for example --epochs 500"),
        (Parameter("seed", INT, 0), "0,1", "seed takes an int, for example --seed 0; got '0,1'"),
        (Parameter("kl", FLOAT | NONE), "x", "kl takes a number or None, for example --kl 0.5; got 'x'"),
        (Parameter("lam", FLOAT, 0.95), "None", "lam takes a number, for example --lam 0.95; got 'None'"),
        (Parameter("flag", BOOL, False), "1", "flag takes True or False, for example --flag False; got '1'"),
        (Parameter("name", STR, None, sample="walker"), None, "name takes a string, for example --name walker"),
        (
            Parameter("hid", LIST, (64, 64), item=int),
            "[a]",
            "hid takes a list of ints, for example --hid [64,64]; got '[a]'",
        ),
        (
            Parameter("hid", LIST, (64, 64), item=int),
            "[True]",
            "hid takes a list of ints, for example --hid [64,64]; got '[True]'",
        ),
        (
            Parameter("hid", LIST, (64, 64), item=int),
            "[64,",
            "hid takes a list of ints, for example --hid [64,64]; got '[64,'",
        ),
        (Parameter("x"), "[64,", "x: '[64,' is not a list; write it as [64,64], without spaces"),
        (Parameter("x", INT, 1), "[" * 100_000, f"x takes an int, for example --x 1; got '{'[' * 40}...'"),
        (Parameter("x", INT, 1), "a\nb", "x takes an int, for example --x 1; got 'a\\nb'"),
    ],
)
def test_convert_says_what_is_accepted(parameter, text, message):
    with pytest.raises(UserError) as error:
        cli.convert(text, parameter, parameter.name)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("", []),
        ("--env CartPole-v1", [Flag("env", None, ["CartPole-v1"])]),
        ("--quiet --dt", [Flag("quiet", None, []), Flag("dt", None, [])]),
        ("-s 0 10 20", [Flag("s", None, ["0", "10", "20"])]),
        ("--hid[h] [32] [64,64]", [Flag("hid", "h", ["[32]", "[64,64]"])]),
        ("--hid[]=[32]", [Flag("hid", "", ["[32]"])]),
        ("--gamma=0.9 0.99", [Flag("gamma", None, ["0.9", "0.99"])]),
        ("--command=a=b", [Flag("command", None, ["a=b"])]),
        ("--exp_name=", [Flag("exp_name", None, [""])]),
        ("--exp_name=--x", [Flag("exp_name", None, ["--x"])]),
        ("--log_std -0.5 -1e-3 -.5 -inf -1,2", [Flag("log_std", None, ["-0.5", "-1e-3", "-.5", "-inf", "-1,2"])]),
        ("--env_kwargs:a:b 1", [Flag("env_kwargs:a:b", None, ["1"])]),
        ("--data_dir - --x", [Flag("data_dir", None, ["-"]), Flag("x", None, [])]),
    ],
)
def test_split_flags(words, flags):
    assert cli.split_flags(words.split()) == flags


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CartPole-v1"], "'CartPole-v1' is not a flag; expected one, for example --env CartPole-v1"),
        (["--hid[h"], "'--hid[h' is not a flag; flags look like --gamma, --hid[h], --env_kwargs:key"),
        (["--"], "'--' is not a flag; flags look like --gamma, --hid[h], --env_kwargs:key"),
        (["--1"], "'--1' is not a flag; flags look like --gamma, --hid[h], --env_kwargs:key"),
        (["--a b"], "'--a b' is not a flag; flags look like --gamma, --hid[h], --env_kwargs:key"),
        (["--x", "\udcff"], "'\\udcff' is not valid UTF-8"),
    ],
)
def test_split_flags_refuses(words, message):
    with pytest.raises(UserError) as error:
        cli.split_flags(words)
    assert str(error.value) == message


@settings(deadline=None)
@given(st.lists(st.text(max_size=20) | st.text("-=[]:ab1 ", max_size=20), max_size=5))
def test_split_flags_loses_no_word(words):
    try:
        flags = cli.split_flags(words)
    except UserError:
        return
    assert len(words) == sum(len(flag.values) + 1 for flag in flags) - sum(
        "=" in word and cli.is_flag(word) for word in words
    )


def sample(
    env_fn,
    actor_critic=dict,
    ac_kwargs: dict | None = None,
    seed: Annotated[int, Range(0), "of everything"] = 0,
    *args,
    lr: Annotated[float, "own line"] = 1e-3,
    target_kl: Annotated[float | None, CHANGEABLE] = None,
    hidden_sizes: Sequence[int] = (64, 64),
    pair: tuple[float, ...] = (),
    linear: Callable = print,
    activation: str | type = "Tanh",
    word: Literal["a", "b"] = "a",
    plain=True,
    later: "int" = 3,
    **kwargs,
): ...


def test_parameters_come_from_the_signature():
    found = cli.parameters(read(inspect.signature(sample)).values())
    assert found == {
        "env_fn": Parameter("env_fn"),
        "ac_kwargs": Parameter("ac_kwargs", frozenset({dict, type(None)})),
        "seed": Parameter("seed", INT, 0, "of everything"),
        "lr": Parameter("lr", FLOAT, 1e-3, "own line"),
        "target_kl": Parameter("target_kl", FLOAT | NONE, None),
        "hidden_sizes": Parameter("hidden_sizes", LIST, (64, 64), item=int),
        "pair": Parameter("pair", LIST, (), item=float),
        "activation": Parameter("activation", STR, "Tanh"),
        "word": Parameter("word", STR, "a"),
        "plain": Parameter("plain", BOOL, True),
        "later": Parameter("later", INT, 3),
    }


# ---- grids in files


def test_tables_in_a_grid_file_are_nested_flags(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(
        'algo = "ppo"\nseed = [0, 1]\n[ac_kwargs]\nactivation = "ReLU"\n[ac_kwargs.linear]\nsparsity = 0.5\n'
    )
    assert cli.read_grid_file(str(file)) == {
        "algo": ["ppo"],
        "seed": ["0", "1"],
        "ac_kwargs:activation": ["ReLU"],
        "ac_kwargs:linear:sparsity": ["0.5"],
    }


def test_a_grid_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_bytes(b'\xef\xbb\xbfalgo = "ppo"\n')
    assert cli.read_grid_file(str(file)) == {"algo": ["ppo"]}


NESTED = "its lists or tables are nested too deeply, or contain themselves"
BAD_FILES = {
    "a list in itself": ("a.yaml", "algo: ppo\nhid: &a [1, *a]\n", NESTED),
    "a table in itself": ("a.yaml", "algo: ppo\nac_kwargs: &a\n  b: *a\n", NESTED),
    "deep lists, YAML": ("a.yaml", f"hid: {'[' * 2000}{']' * 2000}", NESTED),
    "deep lists, TOML": ("a.toml", f"hid = {'[' * 2000}{']' * 2000}", NESTED),
    "deep tables": ("a.toml", f"{'.'.join('a' * 2000)} = 1", NESTED),
    "a bool that is none": ("a.yaml", "normalize_obs: !!bool foo", "a tag (!!) doesn't fit its value"),
    "an empty int": ("a.yaml", 'epochs: !!int ""', "a tag (!!) doesn't fit its value"),
    "a time that is none": ("a.yaml", "gamma: !!timestamp foo", "a tag (!!) doesn't fit its value"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_grid_file_that_makes_no_sense(tmp_path, case):
    name, text, reason = BAD_FILES[case]
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=rf"^grid: {re.escape(f'{file}: {reason}')}"):
        cli.read_grid_file(str(file))


def test_an_empty_list_in_a_grid_file_is_refused(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text('algo = "ppo"\nnormalize_adv = []\n')
    with pytest.raises(UserError, match="normalize_adv: an empty list has no values; leave it out"):
        cli.read_grid_file(str(file))


@pytest.mark.parametrize("text", ["gamma: 0.9\ngamma: 0.99\n", "ac_kwargs:\n  linear: {sparsity: 0, sparsity: 1}\n"])
def test_a_key_given_twice_in_a_yaml_file_is_refused(tmp_path, text):
    pytest.importorskip("yaml")
    file = tmp_path / "grid.yaml"
    file.write_text(f"algo: ppo\n{text}")
    with pytest.raises(UserError, match=rf"^grid: {re.escape(str(file))}: (gamma|sparsity) is given twice; several"):
        cli.read_grid_file(str(file))
    file.write_text("base: &base {activation: ReLU}\nac_kwargs:\n  <<: *base\n  linear: Linear\nseed: [0, 1]\n")
    flags = {"base:activation": ["ReLU"], "ac_kwargs:activation": ["ReLU"], "ac_kwargs:linear": ["Linear"]}
    assert cli.read_grid_file(str(file)) == {**flags, "seed": ["0", "1"]}


def test_an_unsupported_value_in_a_grid_file_is_named(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text('algo = "ppo"\nstarted = 2020-01-01\n')
    with pytest.raises(UserError, match=rf"^grid: {re.escape(str(file))}: started: .*2020"):
        cli.read_grid_file(str(file))
