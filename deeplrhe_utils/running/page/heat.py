"""Heat maps of the report page: what notebook 07 left, as files that a browser loads from disk."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from deeplrhe_utils.core.errors import CompendiumError, InputError
from deeplrhe_utils.core.files import read_json, safe_name, write_text
from deeplrhe_utils.core.text import escaped
from deeplrhe_utils.running.page.html import link, pixels_of, url

if TYPE_CHECKING:
    import pandas as pd

HEATMAPS: Final = "heatmaps"
MOST_WINDOWS: Final = 60_000
"""Windows of one slide that the page draws; a browser stays smooth below that."""
_PLACE: Final = ["x_l0_px", "y_l0_px", "size_l0_px"]
_NOT_GENES: Final = {"tile_id", "slide_id", *_PLACE}


@dataclass(frozen=True)
class Heat:
    """The section's HTML, whether it holds the live viewer (which needs scripts), and what the page must warn of."""

    html: str
    live: bool
    warning: str = ""


def heat_section(root: Path, assets: str) -> Heat:
    """The viewer's place on the page, and one file per slide with its windows and scores.

    Parameters
    ----------
    root : run folder; ``heatmaps/`` is read (`SlideScores.save`)
    assets : folder below `root` for the files ``slide-000.js`` and so on; slide names never choose a path

    Returns nothing when the run drew no map; a sentence when what it left cannot be read.

    A page opened from disk may not fetch data; it may load scripts. Hence scores travel as scripts, one per slide,
    loaded when the slide is chosen.
    """
    from deeplrhe_utils.learning.networks.cards import about_networks, data_kind, warning_of

    folder = root / HEATMAPS
    if not (folder / "slides.json").is_file():
        return Heat("", False)
    try:
        slides, genes, cards = _slides(root, folder)
        networks, warning = about_networks(cards), warning_of(map(data_kind, cards.values()))
    except (CompendiumError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Heat(f"<p>The stored heat maps cannot be shown: {escaped(error)}</p>", False)
    if not slides or not genes:
        return Heat("<p>No slide has a score from a network that had not seen its patient: no map is drawn.</p>", False)
    for number, slide in enumerate(slides):
        write_text(root / assets / _script(number), f"deeplrheSlide({number}, {_json(slide)});\n")
    told = "".join(f"<br>{escaped(line)}" for line in networks)
    return Heat(f'<p class="soft">Scored by:{told}</p>{_html(root, assets, slides, genes)}', True, warning)


def _slides(root: Path, folder: Path) -> tuple[list[dict[str, Any]], list[str], dict[str, Any]]:
    import pandas as pd

    from deeplrhe_utils.learning.networks.cards import DENSE_FACTS, check_dense

    facts, dense = read_json(folder / "slides.json"), pd.read_parquet(folder / "dense.parquet")
    check_dense(dense, facts)  # the leak alarm of the model cards holds for stored scores, too
    windows = dense[dense["on_grid"].astype(bool) & (dense["network"] == 1)]
    genes = [
        str(gene) for gene in facts["genes"] if gene in windows.columns and gene not in {*_NOT_GENES, *DENSE_FACTS}
    ]
    slides = []
    for name, own in windows.groupby("slide_id", sort=True):
        width, height = (int(value) for value in facts["sizes"][name])
        picture = folder / f"{safe_name(str(name))}-slide.jpg"
        if not picture.is_file():
            raise InputError(f"The thumbnail of slide {name} is missing", fix="Run notebook 07 again")
        slides.append({
            "name": str(name), "width": width, "height": height, "source": _source(root, picture),
            "pixels": list(pixels_of(picture)), "total": len(own),
            "tissue": facts.get("tissue", {}).get(name), **_scores(own.head(MOST_WINDOWS), genes),
        })  # fmt: skip
    return slides, genes, facts["cards"]


def _scores(own: pd.DataFrame, genes: list[str]) -> dict[str, Any]:
    """Windows as [x, y, side] in level-0 px, and per gene scores in thousandths (null where there is none)."""
    places = own[_PLACE].astype(float).round(2).to_numpy().tolist()
    thousandths = {gene: [None if v != v else round(v * 1000) for v in own[gene].astype(float)] for gene in genes}
    return {"windows": places, "scores": thousandths}


def _source(root: Path, picture: Path) -> dict[str, Any]:
    """What OpenSeadragon opens: a Deep Zoom pyramid ``<slide>-slide.dzi`` where there is one, else the thumbnail.

    The description is given in the page, because a page opened from disk may not read the ``.dzi`` itself.
    """
    from deeplrhe_utils.reporting.exports.pyramid import (
        deep_zoom_facts,
    )  # late: the command line must start without OpenCV

    described = picture.with_suffix(".dzi")
    if not described.is_file():
        address = quote(picture.relative_to(root).as_posix())
        return {"type": "image", "url": address, "buildPyramid": False}
    found = deep_zoom_facts(described)
    tiles = quote(described.with_name(f"{described.stem}_files").relative_to(root).as_posix())
    return {"Image": {"xmlns": "http://schemas.microsoft.com/deepzoom/2008", "Url": f"{tiles}/",
                      "Format": found["Format"], "Overlap": found["Overlap"], "TileSize": found["TileSize"],
                      "Size": {"Width": found["Width"], "Height": found["Height"]}}}  # fmt: skip


def _html(root: Path, assets: str, slides: list[dict[str, Any]], genes: list[str]) -> str:
    from deeplrhe_utils.reporting.explorer.views import colour_ramp
    from deeplrhe_utils.reporting.heatmaps.bands import PALETTES  # late: the command line must start without matplotlib

    index = {"slides": [f"{assets}/{_script(number)}" for number in range(len(slides))],
             "palettes": {name: colour_ramp(name) for name in PALETTES}}  # fmt: skip
    names = [str(slide["name"]) for slide in slides]
    controls = "".join([
        _menu("slide", "Slide", list(map(str, range(len(names)))), names), _menu("gene", "Target", genes, genes),
        _menu("palette", "Colours", list(PALETTES), ["red–blue (paper)", "perceptual"]),
        _slider("opacity", "Opacity", 0.5), _slider("threshold", "Show scores from", 0.0),
        '<span><button type="button" id="heat-in" aria-label="Zoom in">+</button> '
        '<button type="button" id="heat-out" aria-label="Zoom out">−</button> '
        '<button type="button" id="heat-whole">Whole slide</button></span>',
    ])  # fmt: skip
    cut = [f"{s['name']}: {MOST_WINDOWS} of {s['total']} windows" for s in slides if s["total"] > MOST_WINDOWS]
    tissue = [f"{s['name']}: {s['tissue']:.0%}" for s in slides if s["tissue"] is not None]
    held = f'<p class="soft">Tissue that lies in scored windows: {escaped("; ".join(tissue))}.</p>' if tissue else ""
    note = f'<p class="soft">Drawn in part: {escaped("; ".join(cut))}.</p>' if cut else ""
    return (
        '<p>Each square is a window, coloured by the score of the network that did not train on the slide\'s patient; '
        "where nothing was measured, the slide is bare. Drag or use the arrow keys to move, press + and − to zoom "
        "(or scroll, once the slide was clicked), click a window to read its score.</p>"
        f'{held}<div class="live" id="heat-viewer" hidden><div class="controls">{controls}</div>'
        '<div class="ramp"><span>0</span><canvas id="heat-ramp" width="256" height="1" role="img" '
        'aria-label="Colour scale from score 0 to score 1"></canvas><span>1</span></div>'
        '<div class="view" id="heat-view"></div><p class="chosen" id="heat-chosen" role="status"></p>'
        '<h3 id="heat-high">Highest windows</h3><ul class="picks" id="heat-picks" aria-labelledby="heat-high"></ul>'
        f'{note}</div><noscript><p>The live view needs JavaScript; the same maps are below as pictures.</p></noscript>'
        f'<script type="application/json" id="heat-index">{_json(index)}</script>{_static(root, slides)}'
    )  # fmt: skip


def _static(root: Path, slides: list[dict[str, Any]]) -> str:
    """The same without a script: the figure of notebook 07, and files for other programs."""
    figure = "figures/heatmaps.png"
    shown = f'<figure><img src="{url(figure)}" alt="Slides and their heat maps" loading="lazy"></figure>'
    rows = [
        f'<tr><th scope="row">{escaped(slide["name"])}</th><td>{_exports(root, str(slide["name"]))}</td></tr>'
        for slide in slides
    ]
    sheets = sorted(p.name for p in (root / HEATMAPS).glob("contact_sheet_*.pdf"))
    if sheets:
        links = ", ".join(link(root, f"{HEATMAPS}/{name}", name) for name in sheets)
        rows.append(f'<tr><th scope="row">all slides on one sheet</th><td>{links}</td></tr>')
    files = (
        '<details><summary>Files for other programs</summary><p class="soft">Drag GeoJSON onto the slide in QuPath; '
        "XML is for ImageScope, OME-TIFF for anything that reads it, CSV for DeepPATH's scripts.</p>"
        f'<table><tbody>{"".join(rows)}</tbody></table></details>'
    )  # fmt: skip
    return (f"<noscript>{shown}</noscript>" if (root / figure).is_file() else "") + files


def _exports(root: Path, slide_id: str) -> str:
    """Links to a slide's exports: tiles with all genes first, then the drawn maps."""
    stem = safe_name(slide_id)
    maps = sorted(
        p.name for p in (root / HEATMAPS).glob(f"{glob.escape(stem)}+*") if p.is_file() and p.suffix != ".dzi"
    )
    names = {
        f"{stem}.geojson": "all targets, tiles (.geojson)",
        **{name: name.removeprefix(f"{stem}+") for name in maps},
    }
    found = [link(root, f"{HEATMAPS}/{name}", shown) for name, shown in names.items()]
    return ", ".join(one for one in found if one) or "none"


def _menu(name: str, label: str, values: list[str], labels: list[str]) -> str:
    options = "".join(
        f'<option value="{escaped(value)}">{escaped(said)}</option>' for value, said in zip(values, labels, strict=True)
    )
    return f'<label for="heat-{name}">{label}<select id="heat-{name}" name="{name}">{options}</select></label>'


def _slider(name: str, label: str, value: float) -> str:
    return (
        f'<label for="heat-{name}"><span>{label}: <output id="heat-{name}-told">{value:.2f}</output></span>'
        f'<input type="range" id="heat-{name}" min="0" max="1" step="0.01" value="{value}" autocomplete="off"></label>'
    )


def _script(number: int) -> str:
    return f"slide-{number:03d}.js"


def _json(value: Any) -> str:
    """JSON that can neither end a script element nor break a line of script."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
