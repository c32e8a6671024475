"""What tables, figures and the terminal show of names and numbers of any origin."""

import io
import re
import sys

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.text import Text

from deeplrhe_utils.core import text
from deeplrhe_utils.reporting.explorer import figures as explorer
from deeplrhe_utils.reporting.figures import cohort, learning, style
from deeplrhe_utils.reporting.figures.display import safe_tables
from deeplrhe_utils.running.commands import print_anything
from tests.hostile import GENES, PATIENTS, SCRIPT, SLIDES

NAMES = list(dict.fromkeys([*SLIDES, *PATIENTS, *GENES]))


@pytest.fixture(scope="module")
def html():
    shell = InteractiveShell()
    before = {name: pd.get_option(name) for name in ("display.html.use_mathjax", "styler.html.mathjax")}
    safe_tables(shell)
    yield lambda shown: shell.display_formatter.format(shown)[0]["text/html"]
    for name, value in before.items():
        pd.set_option(name, value)


FRAME = pd.DataFrame({"gene": NAMES, SCRIPT: 0.5, "n": range(len(NAMES))}, index=pd.Index(NAMES[::-1], name=SCRIPT))


@pytest.mark.parametrize("shown", [
    FRAME, FRAME.style, FRAME.style.format(precision=2).set_caption(SCRIPT), FRAME.style.format(escape="html"),
    FRAME.reset_index(names="other").pivot_table("n", "gene", "other").style.format("{:.1f}", na_rep="–"),
    FRAME.set_index("gene").style.hide(axis="columns"), FRAME.iloc[:0].style,
    FRAME.style.set_properties(**{"text-align": "left"}).hide(axis="index"),
], ids=range(8))  # fmt: skip
def test_no_name_is_markup_in_a_table(html, shown):
    page = html(shown)
    inside = re.sub(
        r"</?(table|thead|tbody|tr|th|td|style|caption|div|p)\b[^<>]*>|<style.*?</style>", "", page, flags=re.DOTALL
    )
    assert "<" not in inside and "&amp;lt;" not in page and "mathjax_ignore" in page
    assert len(getattr(shown, "data", shown)) == 0 or text.escaped(SCRIPT) in page


def test_numbers_of_a_table_keep_what_they_say(html):
    frame = pd.DataFrame({"auc": [0.99996, 1.0, 0.5, np.nan], "p_holm": [1e-9, 1.0, 0.03, np.nan], "n": [1, 2, 3, 4]})
    page = html(frame.style.format({"auc": "{:.3f}", "p_holm": "{:.3f}"}, na_rep="–", escape="html"))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    assert cells == ["0.99996", "&lt; 0.001", "1", "1.000", "1.000", "2", "0.500", "0.030", "3", "–", "–", "4"]


@pytest.mark.parametrize(("value", "shown"), [
    (0.9996, "0.9996"), (0.996, "0.996"), (0.99995, "0.99995"), (1.0, "1.00"), (0.0, "0.00"), (0.004, "0.004"),
    (1e-7, "0.0000001"), (0.5, "0.50"), (-0.2, "-0.20"), (np.nextafter(1, 0), "0.9999999999999999"),
])  # fmt: skip
def test_only_what_is_one_or_zero_reads_so(value, shown):
    assert text.share_text(value) == shown


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_short_line(name):
    shown = text.said(name, 30)
    assert len(shown) <= 30 and shown.isprintable() and (shown == name or "\\" in shown or "…" in shown)


METRICS = pd.DataFrame({"gene": NAMES, "auc": 0.9996, "ci_low": 0.996, "ci_high": 0.99995, "n_pos": 5, "n_neg": 6,
                        "status": "estimated", "arm": "a", "difference": 0.1})  # fmt: skip
METRICS = METRICS.assign(null_low=0.4, null_high=0.6)
PICTURE = np.zeros((8, 8, 3), np.uint8)
CUTS = pd.DataFrame({"cut": [0.5], "auc": [0.9996], "ci_low": [0.9], "ci_high": [1.0]})
COUNTS = pd.DataFrame({"auc": [0.8], "patients": [100], "half_width": [0.1]})
NOW = {"cut": 0.5, "patients": 100}
TILES = pd.DataFrame({"x_l0_px": [0], "y_l0_px": [0], "size_l0_px": [4.0], "kept": [True], "reason": [None]})
PANEL = {"thumbnail": PICTURE, "tiles": TILES, "width_l0_px": 8}
SITES = pd.DataFrame([{"gene": g, "site_id": s, "positives": 1, "profiled": 2, "patients": 3}
                      for g in GENES for s in NAMES])  # fmt: skip


@pytest.mark.parametrize("draw", [
    lambda: style.auc_forest(METRICS), lambda: style.ledger_bars(dict.fromkeys(NAMES, 1), "names"),
    lambda: style.image_grid([[PICTURE]] * len(NAMES), NAMES),
    lambda: style.training_curves({name: [1.0] for name in NAMES[:6]}),
    lambda: style.slide_grids([{**PANEL, "title": name} for name in NAMES]),
    lambda: style.matrix(pd.DataFrame(1, NAMES, NAMES), "classes"), lambda: cohort.site_mutation_map(SITES),
    lambda: learning.rivals(METRICS.assign(arm="b", ci_low=0, ci_high=1), "a"),
    lambda: explorer.what_if(pd.DataFrame({"slide_id": NAMES, "left_out": 0.0, "mean": 0.5}), CUTS, COUNTS, NOW),
], ids=range(9))  # fmt: skip
def test_a_figure_shows_names_short_and_as_they_are(draw):
    figure = draw()
    figure.canvas.draw()
    texts = [one.get_text() for one in figure.findobj(Text) if one.get_text()]
    assert any("window.__h" in one for one in texts) and not any("mathdefault" in one for one in texts)
    assert max(len(line) for one in texts for line in one.split("\n")) < 95
    figure.savefig(io.BytesIO(), format="svg")


@pytest.mark.parametrize("draw", [
    lambda: style.auc_forest(METRICS.iloc[:0]), lambda: style.ledger_bars({}, "patients"),
    lambda: style.roc({}, METRICS),
])  # fmt: skip
def test_an_empty_figure_says_why(draw):
    assert "nothing to" in draw().texts[0].get_text()


def test_the_terminal_obeys_no_name(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", terminal)
    print_anything()
    print("a\u202eb\x1b[2J\x07 µ ∑\tc", flush=True)
    assert terminal.buffer.getvalue() == b"a\\u202eb\\x1b[2J\\x07 \xb5 \\u2211\tc\n"


def test_long_work_tells_how_far_it_is(monkeypatch, capsys):
    def at(*seconds, **more):
        clock = iter([0.0, *seconds])
        monkeypatch.setattr(text.time, "monotonic", lambda: next(clock))
        assert list(text.told("steps", range(5), **more)) == [0, 1, 2, 3, 4]
        return capsys.readouterr().out

    assert at(4, 11, 12, 42, 43) == "steps: 2/5, about 16 s left\nsteps: 4/5, about 10 s left\nsteps: 5/5\n"
    assert at(1, 2, 3, 4, 4.5) == "", "short work was told"
    monkeypatch.setattr(text, "_is_watched", lambda: True)
    bars = at(4, 6, 6.2, 8, 10).split("\r")
    assert [bar.split()[1:3] for bar in bars[1:]] == [["steps:", "2/5,"], ["steps:", "4/5,"], ["steps:", "5/5"]]
    assert bars[-1].startswith("█" * 20) and bars[-1].endswith("\n") and bars[1].count("█") == 8
    monkeypatch.undo()
    resumed = text.Countdown("steps", 5, done=4)
    resumed.step()
    assert "5/5" in capsys.readouterr().out
