"""``deeplrhe audit features``: anybody's vectors in; what they are, what they tell, and what tells on them, out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from deeplrhe_utils.acquisition.features.cohort import vector_slides
from deeplrhe_utils.acquisition.features.neutral import FULL_POWER_UM, SlideVectors
from deeplrhe_utils.acquisition.features.tables import find_vectors
from deeplrhe_utils.acquisition.labels.labels import read_label_table, with_label_patients
from deeplrhe_utils.core.errors import CohortError, CompendiumError, ParameterError
from deeplrhe_utils.core.files import atomic_path, claim, safe_name, write_json, write_text
from deeplrhe_utils.core.tables.foreign import write_sheet
from deeplrhe_utils.core.text import counted, escaped, listed, shortened
from deeplrhe_utils.evaluation.audits.diagnosis import FIRST
from deeplrhe_utils.evaluation.audits.leakage import audit_split
from deeplrhe_utils.evaluation.audits.probing import class_told, verdict_of
from deeplrhe_utils.evaluation.referee.arms import attention_arm, image_arms, principal
from deeplrhe_utils.evaluation.referee.feature_files import (
    Described,
    describe,
    encoder_doubts,
    files_fingerprint,
    known_encoder,
    place_doubts,
)
from deeplrhe_utils.evaluation.referee.findings import arm_findings, site_findings
from deeplrhe_utils.evaluation.referee.robustness import robustness_index
from deeplrhe_utils.evaluation.splits.published import read_any_split
from deeplrhe_utils.learning.probes.readers import partitions
from deeplrhe_utils.learning.probes.sources import UNKNOWN_MPP
from deeplrhe_utils.learning.rivals.mil import load_mil, score_bags
from deeplrhe_utils.reporting.exports.export import ExportFolder, MapStyle, SlideMap, export_map
from deeplrhe_utils.reporting.figures.style import forest
from deeplrhe_utils.reporting.heatmaps.bands import Frame
from deeplrhe_utils.reporting.heatmaps.scores import GeneWindows
from deeplrhe_utils.running.jobs.cohort_run import clinical_table
from deeplrhe_utils.running.page.html import link, page, section, table, url
from deeplrhe_utils.slides.files.inventory import scan_slides
from deeplrhe_utils.slides.reading.reader import Slide

_Tell = Callable[[str], None]
FILES: Final = ("audit.json", "arms.csv", "slides.csv", "site.csv", "arms.png", "index.html")
_NEIGHBOURS: Final = 6000  # vectors among which neighbours are sought, about
_SAMPLE_BYTES: Final = 1 << 30  # of vectors that are held for attention and neighbours
_DRAWS_EACH: Final = 40  # exchanges per target, so that Holm's rule can be passed
_MAP_PX: Final = 1200
_INDEX: Final = ["classes_of", "index", "null_mean", "null_low", "null_high", "p", "k", "class_named", "sites",
                 "vectors", "patients", "left_out"]  # fmt: skip
_WORDS: Final = {"classes_of": "classes", "class_named": "class named by neighbours", "left_out": "patients left out"}
_FORMATS: Final = (".png", ".tiles.geojson", ".score.ome.tiff")


@dataclass(frozen=True)
class AuditOptions:
    """What is asked of a folder of vectors.

    Attributes
    ----------
    labels : table of labels: patient_id or slide_id, and a column per gene
    clinical : clinical table (`read_clinical`); without it TCGA barcodes tell hospital and diagnosis
    splits : a split of any origin (`read_any_split`) that is audited beside
    slides : folder of the slides, to check places and to draw maps
    encoder, patches : as of `read_h5`
    genes : columns of `labels`; empty: those that look like gene symbols
    variables : columns of the clinical table that make the record
    folds, repeats, draws : divisions of the patients, how often, and exchanges of labels per arm
    attention_draws : exchanges beside which attention MIL is trained; 0 leaves attention MIL out
    tiles : vectors of a slide that attention MIL and the robustness index see
    maps : slides whose attention is drawn
    min_positives, seed : least patients in each class; fixes everything random
    """

    labels: Path
    clinical: Path | None = None
    splits: Path | None = None
    slides: Path | None = None
    encoder: str = ""
    patches: Path | None = None
    genes: tuple[str, ...] = ()
    variables: tuple[str, ...] = ("age_years", "sex", "smoking", "stage")
    folds: int = 5
    repeats: int = 5
    draws: int = 200
    attention_draws: int = 19
    tiles: int = 128
    maps: int = 0
    min_positives: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"folds": 2, "repeats": 1, "draws": 19, "attention_draws": 0, "tiles": 1, "maps": 0, "min_positives": 2}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ParameterError(f"--{name.replace('_', '-')} is too small", got=getattr(self, name),
                                     expected=f"{low} or more")  # fmt: skip


def audit_features(path: Path, out: Path, options: AuditOptions, tell: _Tell = print) -> dict[str, Any]:
    """Audit vectors; writes :data:`FILES` and ``maps/``.

    Parameters
    ----------
    path : as of `find_vectors`
    out : folder of the results; files of those names are replaced if an earlier call wrote them

    Returns what ``audit.json`` receives.
    Raises InputError, LabelError, CohortError, ParameterError: as the readers; nobody has both vectors and a label.
    """
    everything = find_vectors(path, encoder=options.encoder, patches=options.patches, empty=True)
    found = [one for one in everything if one.count]
    read = read_label_table(options.labels, options.genes)
    labels = read.labels
    slides, notes = with_label_patients(vector_slides(found), options.labels)
    clinical, more = clinical_table(slides, pd.DataFrame(), options.clinical)
    clinical = _with_label_sites(clinical, read.members)
    known = clinical.set_index("patient_id")
    split = _split_findings(options, known)
    claim(out, "audit", FILES)
    most = min(options.tiles, max(1, _SAMPLE_BYTES // (4 * found[0].width * len(found))))
    described = describe(found, most=most, seed=options.seed)
    here = scan_slides(options.slides, hash_files=False).to_dict("records") if options.slides else []
    files = {row["slide_id"]: row for row in here if row["status"] == "ok"}
    facts, doubts = _files(path, found, described, slides, labels, files)
    if bare := [one.slide_id for one in everything if not one.count]:
        doubts.append(f"{len(bare)} files hold no vector and were left out: {shortened(bare, 3)}.")
    means = _patient_means(described, slides)
    people = means.index[means.index.isin(labels.dropna(subset=["status"])["patient_id"])]
    if not len(people):
        raise CohortError("Nobody has both vectors and a label", got=f"vectors of {shortened(list(means.index), 3)}",
                          expected=f"patients such as {shortened(list(labels['patient_id'].unique()), 3)}",
                          fix="Name the slides in a column slide_id of the labels")  # fmt: skip
    tell(f"{facts['vectors']:,} vectors of {facts['width']} numbers, {counted(len(found), 'slide')}, "
         f"{counted(len(people), 'patient')} with vectors and a label.")  # fmt: skip
    draws = max(options.draws, _DRAWS_EACH * labels["gene"].nunique())
    arms = image_arms(means, labels, clinical, variables=options.variables, n_folds=options.folds,
                      repeats=options.repeats, draws=draws, seed=options.seed,
                      min_positives=options.min_positives)  # fmt: skip
    everybody, rows = next(iter(arms.groups)), arms.arms
    known = known.reindex(means.index)
    owner = pd.Series(described.owner).map(slides[slides["status"] == "ok"].set_index("slide_id")["patient_id"])
    attention, maps = _attention(found, described, owner, labels, known, people, files, doubts, out, options)
    if len(attention):
        rows = pd.concat([rows, attention.assign(arm="attention MIL", patients=everybody)], ignore_index=True)
    site = _site(described, owner, means, known, labels, options)
    control_rows = arms.arms[(arms.arms["arm"] == "image") & (arms.arms["patients"] == everybody)]
    passed, control = verdict_of(control_rows, FIRST if (control_rows["gene"] == FIRST).any() else "")
    findings = [*arm_findings(rows, arms.gains, control, passed), *site_findings(site), *split]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    result = {"facts": facts, "doubts": doubts, "notes": [*read.notes, *notes, *more], "findings": findings,
              "control": control, "control_passed": passed, "arms": _plain(rows), "gains": _plain(arms.gains),
              "site": {name: _known(value) for name, value in site.items()}, "options": asked,
              "maps": [str(m.relative_to(out)) for m in maps]}  # fmt: skip
    _write(out, result, rows, described)
    for line in (*doubts, *findings):
        tell(line)
    tell(f"Results: {out / 'index.html'}")
    return result


def _known(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {name: _known(one) for name, one in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _with_label_sites(clinical: pd.DataFrame, members: pd.DataFrame) -> pd.DataFrame:
    """The clinical table, with the site that the labels name where it has none."""
    if "site_id" not in members:
        return clinical
    own = members[members["site_id"] != ""].drop_duplicates("patient_id").set_index("patient_id")["site_id"]
    return clinical.assign(site_id=clinical["site_id"].fillna(clinical["patient_id"].map(own)))


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _files(
    path: Path, found: list[SlideVectors], described: Described, slides: pd.DataFrame, labels: pd.DataFrame,
    files: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """What the files are, and what speaks against them."""
    told, encoder = described.slides, known_encoder(found[0].encoder)
    doubts = encoder_doubts(found, told)
    for one in found:
        doubts += [f"{one.slide_id}: {note}." for note in one.notes] + place_doubts(one, files.get(one.slide_id))
    if lost := int(told["not_finite"].sum()):
        where = shortened(list(told.loc[told["not_finite"] > 0, "slide_id"]), 3)
        doubts.append(f"{lost:,} vectors hold what is no finite number and were left out: {where}.")
    if described.constant:
        doubts.append(f"{described.constant} of {found[0].width} features are the same everywhere.")
    twins = told.dropna(subset=["twin_of"])
    doubts += [f"{r.slide_id} has the same vectors as {r.twin_of}." for r in twins.itertuples()]
    if absent := sorted(set(files) - set(told["slide_id"])):
        doubts.append(f"{len(absent)} of {len(files)} slides have no vectors: {shortened(absent, 3)}.")
    if silent := sorted(set(labels.dropna(subset=["status"])["patient_id"]) - set(slides["patient_id"])):
        doubts.append(f"{counted(len(silent), 'labelled patient')} without vectors: {shortened(silent, 3)}.")
    if encoder and any(word in encoder["licence"] for word in ("NC", "non-commercial")):
        doubts.append(f"{encoder['encoder']} is licensed {encoder['licence']}, which may bind its vectors and models "
                      "trained on them: read it before you use either.")  # fmt: skip
    sides = pd.Series([one.size_um() for one in found]).dropna()
    return {
        "path": str(path), "layout": listed(sorted({one.layout for one in found})),
        "encoder": found[0].encoder or "not told", "licence": encoder["licence"] if encoder else "not known here",
        "fingerprint": files_fingerprint(slides), "slides": len(found), "patients": int(slides["patient_id"].nunique()),
        "labelled_patients_without_vectors": len(silent), "vectors": int(told["vectors"].sum()),
        "width": found[0].width, "type": str(found[0].dtype), "excluded": int((slides["status"] != "ok").sum()),
        "slides_with_places": sum(one.places is not None for one in found),
        "tile_um": float(sides.median()) if len(sides) else None,
    }, doubts  # fmt: skip


def _patient_means(described: Described, slides: pd.DataFrame) -> pd.DataFrame:
    """Mean over all finite vectors of a patient's usable slides: rows are patients, sorted."""
    table = described.slides.merge(slides[["slide_id", "patient_id", "status"]], on="slide_id")
    weight = (table["vectors"] - table["not_finite"]).where(table["status"] == "ok", 0).to_numpy(float)
    values = np.nan_to_num(described.means.to_numpy()) * weight[:, None]
    frame = pd.DataFrame(np.column_stack([values, weight])).rename(columns=str)
    total = frame.groupby(table["patient_id"].to_numpy(str)).sum().rename_axis("patient_id")
    total = total[total.iloc[:, -1] > 0]
    return total.iloc[:, :-1].div(total.iloc[:, -1], axis=0)


def _attention(
    found: list[SlideVectors], described: Described, owner: pd.Series, labels: pd.DataFrame, known: pd.DataFrame,
    people: pd.Index, files: Mapping[str, Mapping[str, Any]],
    doubts: list[str],
    out: Path, options: AuditOptions,
) -> tuple[pd.DataFrame, list[Path]]:  # fmt: skip
    """Attention MIL beside its null, and maps of it; `owner`: patient of each sampled vector; `doubts` grows."""
    used = owner.isin(people).to_numpy()
    names = np.unique(owner[used].to_numpy(str))
    if not options.attention_draws or len(names) < 2 * options.folds:
        return pd.DataFrame(), []  # `arm_findings` says that attention MIL was left out
    whiten = principal(described.sample[used], seed=options.seed)
    tiles = pd.DataFrame({"tile_id": np.arange(used.sum()).astype(str), "patient_id": owner[used].to_numpy(str)})
    folds, maps = partitions(len(names), options.folds, 1, options.seed)[0], []
    with tempfile.TemporaryDirectory() as aside:
        table = attention_arm(
            np.asarray(whiten.transform(described.sample[used]), np.float32), tiles, labels, folds,
            strata=known["histology"], draws=options.attention_draws, seed=options.seed,
            min_positives=options.min_positives, folder=Path(aside),
        )  # fmt: skip
        fold_of = pd.Series(folds, names)[owner[used]].set_axis(described.owner[used]).groupby(level=0).first()
        placed = [one for one in found if one.places is not None and one.unit and one.slide_id in fold_of]
        for one in sorted(placed, key=lambda one: (-one.count, one.slide_id))[: options.maps if len(table) else 0]:
            model = Path(aside) / f"attention-fold-{fold_of[one.slide_id]}.safetensors"
            try:
                maps += _map(one, files.get(one.slide_id), model, whiten, list(table["gene"]), out, options)
            except CompendiumError as error:  # the audit is worth more than a picture
                doubts.append(f"{one.slide_id}: its attention could not be drawn. {error}")
    return table, maps


def _map(
    one: SlideVectors, row: Mapping[str, Any] | None, model: Path, whiten: PCA, genes: list[str], out: Path,
    options: AuditOptions,
) -> list[Path]:  # fmt: skip
    """Attention of a network that has not seen the patient, as a share of the slide's tiles that count less [0–1]."""
    z = np.concatenate([whiten.transform(np.nan_to_num(np.asarray(block, np.float32))) for block in one.blocks()])
    network = load_mil(model)[0].of_targets(range(0, len(genes) * (1 + options.attention_draws),
                                                  1 + options.attention_draws))  # fmt: skip
    _, attention = score_bags(network, z.astype(np.float32), np.zeros(len(z), np.int64))
    picture, mpp, size = None, FULL_POWER_UM / one.power if one.power > 0 else None, (0, 0)
    if row is not None:
        with Slide(row["path"], row["mpp"]) as opened:
            picture, mpp, size = opened.thumbnail(_MAP_PX), opened.mpp, opened.dimensions
    windows = one.windows(mpp).assign(tile_id=[f"{one.slide_id}_{i}" for i in range(one.count)])
    if picture is None:
        right, bottom = (windows[c] + windows["size_l0_px"] for c in ("x_l0_px", "y_l0_px"))
        size = int(right.max()), int(bottom.max())
    across = max(*size) / _MAP_PX
    shape = picture.shape[:2] if picture is not None else (int(size[1] / across), int(size[0] / across))
    frame, written = Frame.fit(*size, mpp or UNKNOWN_MPP, shape), []
    for number, gene in enumerate(genes):
        rank = pd.Series(attention[:, number]).rank(pct=True)
        ledger = pd.DataFrame({"outcome": ["drawn"], "windows": [one.count]})
        drawn = GeneWindows(windows.assign(score=rank.to_numpy()), rank.to_numpy()[:, None], [0], ledger)
        style = MapStyle(palette="perceptual", measure="rank of attention")
        what = SlideMap(drawn, frame, one.slide_id, gene, picture, style,
                        scored_by="attention MIL, rank within the slide")  # fmt: skip
        written += export_map(what, ExportFolder(out / "maps"), safe_name(one.slide_id), _FORMATS)
    return written


def _site(
    described: Described, owner: pd.Series, means: pd.DataFrame, known: pd.DataFrame, labels: pd.DataFrame,
    options: AuditOptions,
) -> dict[str, Any]:  # fmt: skip
    """Can the site be read, and do neighbours share the site rather than the class?"""
    place, kinds = known["site_id"], known["histology"]
    told = class_told(means, place, n_folds=options.folds, repeats=2, draws=options.draws, seed=options.seed,
                      strata=kinds)  # fmt: skip
    each = max(1, _NEIGHBOURS // len(described.slides))
    use = (owner.notna() & (owner.groupby(described.owner).cumcount() < each)).to_numpy()
    vectors = pd.DataFrame(described.sample[use], index=owner[use].to_numpy(str))
    classes = {"diagnosis": kinds} if kinds.nunique() > 1 else {}
    for gene, own in labels.groupby("gene", sort=False):
        if min(own["status"].eq(1).sum(), own["status"].eq(0).sum()) >= options.min_positives:
            classes[str(gene)] = own.set_index("patient_id")["status"]
    rows, absent = [], []
    for name, of in classes.items():
        try:
            rows.append({"classes_of": name, **robustness_index(vectors, of, place, seed=options.seed)})
        except CohortError as error:
            absent.append(f"Robustness index by {name}: not to be had. {error}")
    return {"told": told, "robustness": rows, "absent": absent or ["Robustness index: no classes to compare."]}


def _split_findings(options: AuditOptions, known: pd.DataFrame) -> list[str]:
    """What `audit_split` says of a given split, with the sites of the clinical table."""
    if options.splits is None:
        return []
    read = read_any_split(options.splits, options.labels)
    units = read.units
    if "site_id" not in units and (of := units["patient_id"].map(known["site_id"])).notna().all():
        units = units.assign(site_id=of)
    told = [*read.notes, *audit_split(read.splits, units, list(options.genes)).findings]
    return [f"Split {options.splits.name}, {read.layout}: {line}" for line in told]


def _write(out: Path, result: Mapping[str, Any], rows: pd.DataFrame, described: Described) -> None:
    write_json(out / "audit.json", result)
    index = pd.DataFrame(result["site"]["robustness"]).reindex(columns=_INDEX)
    for frame, name in ((rows, "arms.csv"), (described.slides, "slides.csv"), (index, "site.csv")):
        write_sheet(frame, out / name)
    (out / "arms.png").unlink(missing_ok=True)
    if len(shown := rows.dropna(subset=["auc"])):
        figure, panels = forest(shown, "AUC by patient, 95 % interval; pale: exchanged labels", panel="patients",
                                series="arm", apart=0.12)  # fmt: skip
        figure.set_size_inches(8.5, 1.4 + 0.62 * shown["gene"].nunique())
        for axes in panels.values():
            axes.set_xlim(0.2, 1.0)
        with atomic_path(out / "arms.png") as part:
            figure.savefig(part, dpi=150, format="png")
    write_text(out / "index.html", _page(out, result, rows, index))


def _page(out: Path, result: Mapping[str, Any], rows: pd.DataFrame, index: pd.DataFrame) -> str:
    facts = pd.DataFrame(
        {"what": [n.replace("_", " ") for n in result["facts"]], "found": map(str, result["facts"].values())}
    )
    columns = ["patients", "arm", "gene", "auc", "ci_low", "ci_high", "null_low", "null_high", "p", "n_pos", "n_neg"]
    estimated, absent = rows.dropna(subset=["auc"]), sorted(set(rows.loc[rows["auc"].isna(), "gene"]))
    few = f"<p>In some arm too few patients of a class: {escaped(listed(absent))}.</p>" if absent else ""
    pictures = ["arms.png"] if (out / "arms.png").is_file() else []
    shown = [
        f'<figure><img src="{url(name)}" alt="{escaped(name)}" style="width: 100%; max-height: none"></figure>'
        for name in (*pictures, *(m for m in result["maps"] if m.endswith(".png")))
    ]
    body = [
        f"<h1>Audit of the features {escaped(Path(result['facts']['path']).name)}</h1>",
        section("findings", "What was found", _items(result["findings"])),
        section("doubts", "What speaks against the files", _items(result["doubts"] or ["Nothing was found."])),
        section("auc", "AUC of every arm", "".join(shown[: len(pictures)]) + table(estimated[columns]) + few),
        section("gains", "Image and clinical record together, minus the record alone",
                table(pd.DataFrame(result["gains"])) if result["gains"] else ""),
        section("site", "Robustness index, and what it would be if sites meant nothing",
                table(index.rename(columns=_WORDS))),
        section("maps", "Attention, as rank within the slide", "".join(shown[len(pictures) :])),
        section("files", "The files", table(facts)),
        section("notes", "Notes", _items(result["notes"]) if result["notes"] else ""),
        "<p>" + " · ".join(link(out, name, name) for name in FILES if not name.endswith((".png", ".html"))) + "</p>",
    ]  # fmt: skip
    return page("Audit of features", "\n".join(filter(None, body)))


def _items(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escaped(line)}</li>" for line in lines) + "</ul>"
