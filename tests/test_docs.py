"""What README and docs/*.md say is so: code and commands run, messages and links are there."""

from __future__ import annotations

import ast
import glob
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from curvature_cli.main import main as curv

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")  # in the first line of a block that is a file, too
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(text: str) -> list[tuple[int, str, str]]:
    """(line of the first statement, language, code) of each block."""
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[1], found[2])
        for found in BLOCK.finditer(text)
    ]


def commands(code: str) -> list[list[str]]:
    """The words of each `curv …`, comments left out and lines that go on joined."""
    lines = code.replace("\\\n", " ").splitlines()
    texts = [line.strip().removeprefix("$ ") for line in lines]
    return [shlex.split(text, comments=True)[1:] for text in texts if text.startswith("curv ")]


# of Lightning's, which a page uses
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .train_dataloader. does not have many workers")
@each_page
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    namespace: dict[str, object] = {"__name__": "page"}
    for line, language, code in blocks(page.read_text()):
        if language == "python":
            if file := FILE.match(code):
                Path(file[1]).write_text(code)
            # the padding makes tracebacks name the page's own lines
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        elif language == "sh":
            for words in commands(code):
                run(words, f"{page.name}, line {line}")
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def run(words: list[str], where: str) -> None:
    """A command as a shell would run it, but in this process."""
    expanded = [name for word in words for name in (sorted(glob.glob(word)) or [word])]
    result = CliRunner().invoke(curv, expanded)
    assert result.exit_code == 0, f"{where}: curv {' '.join(words)}\n{result.output}"


def mentioned() -> Iterator[tuple[str, list[str]]]:
    """Every command in a block or an indented line."""
    for page in PAGES:
        text = page.read_text()
        indented = "\n".join(re.findall(r"^    (.*)", text, re.MULTILINE))
        for words in commands("\n".join([indented, *(code for _, _, code in blocks(text))])):
            yield page.name, words


@pytest.mark.parametrize(("page", "words"), list(mentioned()), ids=lambda value: str(value)[:60])
def test_every_command_and_option_on_a_page_exists(page: str, words: list[str]) -> None:
    command: click.Command = curv
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{page}: there is no `curv {name}`"
        command = found
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{page}: {command.name} has no {word}"


def strings_of_the_source() -> list[str]:
    """All texts in it, joined where they are concatenated, with … for what is put in."""
    found = []
    for path in [*(ROOT / "curvature").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in _but_docstrings(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def _but_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            yield node
            yield from _but_docstrings(node)


def messages() -> list[str]:
    lines = (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
    cells = [line.split(" | ")[0][1:].strip() for line in lines if line.startswith("| `")]
    return [re.sub(r"^``? ?| ?``?$", "", cell) for cell in cells]


SOURCE = strings_of_the_source()


@pytest.mark.parametrize("message", messages())
def test_every_message_that_is_explained_occurs_in_the_source(message: str) -> None:
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    wanted = re.compile(".*".join(pieces), re.DOTALL)
    assert any(wanted.search(text) for text in SOURCE)


@each_page
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [p.name for p in PAGES[1:] if p.name != "README.md" and f"({p.name})" not in index] == []


def test_blocks_and_commands_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n```\nno\n```\n```sh\ncurv a \\\n  --b 1  # c\nls\n```\n"
    assert blocks(text) == [(3, "python", "x = 1\n"), (9, "sh", "curv a \\\n  --b 1  # c\nls\n")]
    assert commands(blocks(text)[1][2]) == [["a", "--b", "1"]]
