"""The page: whole in itself, safe with strangers' text, honest about what is missing."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from curvature.report import render
from curvature.report.figures import curves, heatmaps
from curvature.statistics import best_settings
from tests.statistics.tables import Row, grid

SMALL = {"optimizers": ("sgd", "sam", "sa-sam"), "rates": (0.1, 0.5), "decays": (0.0, 1e-3)}
VOID = {"meta", "br", "img", "hr", "link", "input"}


class Reader(HTMLParser):
    """Collects what a browser would look at; the tags must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return grid(**SMALL)


@pytest.fixture(scope="module")
def page(rows: list[Row]) -> str:
    return render(rows, title="A study", commands=["curv report runs"])


def test_every_section_and_figure_is_there(page: str) -> None:
    read = Reader(page)
    ids = {attributes.get("id") for _, attributes in read.tags}
    assert {"best", "verdicts", "heatmaps", "trouble", "trust", "provenance", "again"} <= ids
    assert sum(tag == "svg" for tag, _ in read.tags) == 3 + 1 + 3 + 2
    assert "curv report runs" in read.text
    assert "SA-SAM" in read.text


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    for tag, attributes in Reader(page).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href") and value:
                assert value.startswith(("#", "data:image/png"))
    assert "url(http" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    ids = [a["id"] for _, a in Reader(page).tags if a.get("id")]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^")]+)', page))
    assert references - set(ids) == set()
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name or "") for name in ids)


def test_ink_follows_the_page_in_light_and_dark(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "#1a1a1a" not in page
    assert "currentColor" in page


def test_strangers_text_stays_text() -> None:
    evil = "<script>alert(1)</script>"
    rows = grid(optimizers=(evil, "sgd"), rates=(0.1,), decays=(0.0,), seeds=2)
    rows[0] |= {"status": "failed", "value": None, "message": evil, "run.model": evil}
    for each in rows:
        each["run.model"] = evil
    read = Reader(render(rows, title=evil, commands=[evil]))
    assert all(tag != "script" for tag, _ in read.tags)
    assert evil in read.text


def test_what_is_missing_is_said_where_it_is_missed() -> None:
    rows = [r for r in grid(**SMALL) if r["split"] == "test" and r["metric"] == "accuracy"]
    text = Reader(render(rows)).text
    assert "No setting was chosen" in text
    assert "No figure of trace on test: No row is of the metric `trace`" in text
    assert "The commands were not recorded" in text


def test_what_went_wrong_is_counted(rows: list[Row], page: str) -> None:
    diverged = sum(row["status"] == "diverged" for row in rows)
    unconverged = sum(row["status"] == "ok" and row["converged"] is False for row in rows)
    assert diverged
    text = " ".join(Reader(page).text.split())
    assert f"{diverged} numbers diverged, 0 failed and {unconverged} estimates" in text


def test_a_study_in_which_all_diverged_still_has_its_page() -> None:
    rows = [{**r, "value": None, "status": "diverged"} for r in grid(**SMALL)]
    text = Reader(render(rows)).text
    assert f"{len(rows)} numbers diverged" in text


def test_several_data_sets_have_their_heatmaps(rows: list[Row]) -> None:
    own = [
        r
        for r in rows
        if (r["metric"], r["split"], r["run.optimizer"]) == ("accuracy", "test", "sgd")
    ]
    there = {"data": "cifar10c:/d", "data_hash": "c", "analysis": "c"}
    drawn = heatmaps(own + [{**row, **there} for row in own], "test")
    names = [drawing.name for drawing in drawn if drawing.svg]
    assert names == ["accuracy-on-test", "accuracy-on-cifar10c"]


def test_training_curves_are_those_of_the_best_settings(rows: list[Row]) -> None:
    runs = {row["run"]: row for row in rows if row["run.seed"] == 0}
    history = [
        {**{k: v for k, v in row.items() if k.startswith("run")}, "epoch": e, "train_loss": 1 / e}
        for row in runs.values()
        for e in (1, 2)
    ]
    (drawing,) = curves(history, best_settings(rows))
    assert drawing.caption == "3 runs."  # a seed of each of the three optimizers


def test_the_template_is_installed_with_the_package() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    assert config["options.package_data"]["curvature.report"] == "page.html"
    assert resources.files("curvature.report").joinpath("page.html").is_file()


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="the table is empty"):
        render([])


@pytest.mark.slow
def test_a_browser_draws_the_page_without_an_error(page: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium")
    file, shot = tmp_path / "report.html", tmp_path / "page.png"
    file.write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--disable-background-networking", "--disable-component-update"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=400,900"),
            *(f"--screenshot={shot}", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert shot.stat().st_size > 10_000
    assert "Refused to" not in done.stderr  # what its content security policy would block
    assert "CONSOLE" not in done.stderr
