"""The grammar of names, and what becomes of options that were typed in."""

import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curvature import names
from curvature.names import Spec, arguments, call, pairs, parse, resolve

TABLE = ("vgg19", *names.TAKE_A_DIRECTORY)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("vgg19", Spec("vgg19")),
        ("vgg19:width=0.25", Spec("vgg19", None, {"width": "0.25"})),
        ("vgg19,width=0.25", Spec("vgg19", None, {"width": "0.25"})),
        ("vgg19:width=0.25,depth=3", Spec("vgg19", None, {"width": "0.25", "depth": "3"})),
        ("cifar10:/data", Spec("cifar10", "/data")),
        ("cifar10:/data,augment=crop", Spec("cifar10", "/data", {"augment": "crop"})),
        ("cifar10:augment=crop", Spec("cifar10", None, {"augment": "crop"})),
        ("cifar10:", Spec("cifar10")),
        ("cifar10:,augment=crop", Spec("cifar10", None, {"augment": "crop"})),
        ("cifar10:/a,b/c:d", Spec("cifar10", "/a,b/c:d")),
        ("cifar10:C:\\data,augment=none", Spec("cifar10", "C:\\data", {"augment": "none"})),
        ("npz:data", Spec("npz", "data")),
        ("mine.nets:Net", Spec("mine.nets:Net")),
        ("mine.nets:Net,depth=3", Spec("mine.nets:Net", None, {"depth": "3"})),
        ("mine:Net.small", Spec("mine:Net.small")),
        ("cifar10:/data,url=a=b", Spec("cifar10", "/data", {"url": "a=b"})),
        ("vgg19:width=", Spec("vgg19", None, {"width": ""})),
    ],
)
def test_the_grammar_reads(text: str, spec: Spec) -> None:
    assert parse(text, TABLE) == spec
    assert parse(str(spec), TABLE) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing"),
        ("  ", "names nothing"),
        (":/data", "names nothing"),
        (",width=1", "names nothing"),
        ("vgg19,small", "`small` in `vgg19,small` is not an option"),
        ("vgg19,", "is not an option"),
        ("vgg19:width=1,small", "`small`"),
        ("cifar10:/data,augment=crop,/more", "`/more`"),
        ("mine:Net,3", "`3`"),
        ("vgg19:width=1,width=2", "`width` stands twice"),
    ],
)
def test_what_has_not_the_grammar_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(text, TABLE)
    assert "\n" not in str(caught.value)


@given(
    directory=st.none() | st.text("ab/.:, _-", min_size=1),
    options=st.dictionaries(st.from_regex(r"[a-z]\w{0,5}", fullmatch=True), st.text("x1.=:/")),
)
def test_any_spec_survives_being_written(directory: str | None, options: dict[str, str]) -> None:
    spec = Spec("cifar10", directory, options)
    assert parse(str(spec), TABLE) == spec


@pytest.mark.parametrize(
    ("text", "portable"),
    [
        ("cifar10:/data,seed=1,augment=crop", "cifar10:augment=crop,seed=1"),
        ("cifar10:/else/where,augment=crop,seed=1", "cifar10:augment=crop,seed=1"),
        ("cifar10c:/data", "cifar10c"),
        ("npz:/data/moons.npz", "npz:moons.npz"),
        ("images:/data/birds/,size=32", "images:birds,size=32"),
        ("mine:Net,b=2,a=1", "mine:Net,a=1,b=2"),
    ],
)
def test_directories_are_not_portable_but_names_of_own_data_are(text: str, portable: str) -> None:
    assert parse(text, TABLE).portable == portable


def test_pairs_refuses_what_is_no_option_or_stands_twice() -> None:
    assert pairs(["a=1", "b="]) == {"a": "1", "b": ""}
    with pytest.raises(ValueError, match="`growth` is not an option; write key=value"):
        pairs(["growth"])
    with pytest.raises(ValueError, match="`a` is given twice: `1` and `2`"):
        pairs(["a=1", "a=2"])


def test_resolve_prefers_the_table_and_lists_it() -> None:
    table = {"vgg19": dict, "resnet20": list}
    assert resolve("vgg19", table, "model") is dict
    assert resolve("collections:OrderedDict", table, "model").__name__ == "OrderedDict"
    with pytest.raises(ValueError, match=r"no model `vgg91`\. Did you mean `vgg19`") as caught:
        resolve("vgg91", table, "model")
    assert "resnet20, vgg19" in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnet21", "resnet20"), ("esnet32", "resnet32"), ("sdg", "sgd")]
)
def test_the_nearest_name_is_suggested(typed: str, meant: str) -> None:
    table = dict.fromkeys(["resnet20", "resnet32", "resnet56", "sgd", "sam"], dict)
    with pytest.raises(ValueError, match=f"Did you mean `{meant}`"):
        resolve(typed, table, "model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_:Net", "No module named 'no_such_module_'"),
        ("collections:Nothing", "`collections` has no `Nothing`; it has "),
        ("math:pi", "is a float, not a callable"),
        (":Net", "can't be imported"),
    ],
)
def test_what_cannot_be_imported_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(name, {}, "model")


def test_a_module_with_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "curvature_test_broken.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"invalid syntax \(curvature_test_broken.py, line 1\)"):
        resolve("curvature_test_broken:f", {}, "model")


def test_the_current_directory_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curvature_test_nets.py").write_text("class Net:\n    small = dict\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    try:
        assert resolve("curvature_test_nets:Net.small", {}, "model") is dict
    finally:
        sys.modules.pop("curvature_test_nets", None)


def build(
    classes: int,
    *,
    width: float = 1.0,
    depth: int | None = 2,
    size: int | float = 1,
    kind: Literal["a", "b"] = "a",
    pool: Literal["max"] | None = None,
    bias: bool = False,
    name: str = "",
    untyped=None,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width=0.25", 0.25),
        ("width=2", 2.0),
        ("depth=3", 3),
        ("depth=none", None),
        ("size=3", 3),
        ("size=0.5", 0.5),
        ("kind=b", "b"),
        ("pool=max", "max"),
        ("pool=None", None),
        ("bias=yes", True),
        ("bias=0", False),
        ("name=3", "3"),
        ("untyped=3", 3),
        ("untyped=0.5", 0.5),
        ("untyped=true", True),
        ("untyped=x", "x"),
    ],
)
def test_options_are_converted_by_the_signature(option: str, value: object) -> None:
    built = call(build, pairs([option]), "model", classes=10)
    found = built[option.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))
    assert built["classes"] == 10


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("width=wide", "option `width` of the model is a number, not `wide`"),
        ("depth=2.5", "is a whole number, not `2.5`"),
        ("kind=c", "is one of a, b, not `c`"),
        ("pool=min", "is one of max, not `min`"),
        ("bias=maybe", "is true or false, not `maybe`"),
        ("wdith=1", "has no option `wdith`. It has classes, width"),
    ],
)
def test_options_that_do_not_fit_are_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(build, pairs([option]), "model", classes=10)


def test_what_is_typed_in_goes_before_what_is_known() -> None:
    assert call(build, {"classes": "100"}, "model", classes=10)["classes"] == 100


def test_only_what_the_function_takes_is_passed() -> None:
    assert arguments(build, {}, "model", classes=10, channels=3) == {"classes": 10}


def test_a_function_of_any_keywords_takes_any_option() -> None:
    assert call(lambda **keywords: keywords, {"a": "1"}, "model", b=2) == {"a": 1}


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ValueError, match="The model needs the option `classes`"):
        call(build, {}, "model")
    assert call(build, {}, "model", 10)["classes"] == 10


def test_a_parameter_given_by_position_is_no_option() -> None:
    with pytest.raises(ValueError, match=r"has no option `classes`\. It has width"):
        call(build, {"classes": "3"}, "model", 10)
