"""The plan of a synthetic cohort: what is declared is what is drawn, over two hundred cohorts."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.synthetic import genes as synthetic_genes
from deeplrhe_utils.synthetic.genes import (
    ASSOCIATED,
    EFFECTS,
    FLOORS,
    GENES,
    HIGH_SITE_SHARE,
    ODDS_RATIOS,
    PREVALENCE,
    at_high_site,
    draw_mutations,
    joint_distribution,
    neighbour_auc,
    oracle_auc,
    site_only_auc,
)
from deeplrhe_utils.synthetic.plan import ARTEFACTS, PRESETS, SLIDE_COLUMNS, CohortSpec, plan_cohort

N_COHORTS, N_PATIENTS = 200, 160
CONTROLS = [g for g in GENES if g not in ASSOCIATED]
TABLES = ("slides", "labels", "clinical", "truth")
N_COLUMNS = [f"n_{kind}" for kind in ARTEFACTS]


@pytest.fixture(scope="module")
def cohorts():
    """Two hundred plans of 180 slides, seeds 0–199."""
    return [plan_cohort(CohortSpec(n_slides=180, seed=s)) for s in range(N_COHORTS)]


@pytest.fixture(scope="module")
def pooled(cohorts):
    """Patient × gene booleans of all cohorts together."""
    wide = [c.truth["mutated"].to_numpy().reshape(-1, len(GENES)) for c in cohorts]
    return pd.DataFrame(np.vstack(wide), columns=list(GENES))


def of_gene(plan, gene):
    return plan.truth[plan.truth["gene"] == gene]


def table_of(first, second):
    """2 × 2 counts, wild type first."""
    return np.array([[(a & b).sum() for b in (~second, second)] for a in (~first, first)])


def log_odds_ratio(table):
    """Logarithm of the odds ratio and its standard error (Woolf), 0.5 added to each cell."""
    cells = np.asarray(table) + 0.5
    return math.log(cells[1, 1] * cells[0, 0] / (cells[0, 1] * cells[1, 0])), math.sqrt((1 / cells).sum())


def assert_mean(values, expected):
    """The mean is the expected one within three standard errors."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - expected) <= 3 * error + 1e-9, f"{values.mean():.4f} ± {error:.4f}, not {expected:.4f}"


# Patients, slides, labels
def test_a_plan_depends_on_nothing_but_its_specification():
    first, second, other = (plan_cohort(CohortSpec(n_slides=20, seed=s)) for s in (3, 3, 4))
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    assert not first.truth.equals(other.truth)
    assert hash(first.spec) == hash(second.spec) and first.spec != other.spec


@pytest.mark.parametrize("n_slides", [1, 2, 12, 13, 180])
def test_a_plan_has_as_many_slides_as_asked_and_about_eight_patients_per_nine(n_slides):
    plan = plan_cohort(CohortSpec(n_slides=n_slides, seed=0))
    assert tuple(plan.slides.columns) == SLIDE_COLUMNS
    assert len(plan.slides) == plan.slides["slide_id"].nunique() == n_slides
    assert len(plan.clinical) == max(1, round(n_slides * 8 / 9)) == plan.slides["patient_id"].nunique()
    assert len(plan.labels) == len(plan.truth) == len(plan.clinical) * len(GENES)
    assert list(plan.slides["patient_id"].unique()) == list(plan.clinical["patient_id"])


def test_patients_have_one_to_four_slides_sites_fill_evenly_and_two_in_five_are_squamous(cohorts):
    counts = [frozenset(c.slides.groupby("patient_id").size()) for c in cohorts]
    assert frozenset.union(*counts) == {1, 2, 3, 4}
    assert max(map(max, counts)) == 4 and {1, 2, 3, 4} in counts
    for plan in cohorts[:20]:
        sizes = plan.clinical.groupby("site_id").size()
        assert len(sizes) == 12 and sizes.max() - sizes.min() <= 2
        assert (plan.clinical["histology"] == "squamous").sum() == 64


def test_the_number_of_patients_can_be_given():
    for n_patients in (45, 60, 180):
        slides = plan_cohort(CohortSpec(n_slides=180, n_patients=n_patients)).slides
        assert len(slides) == 180 and slides["patient_id"].nunique() == n_patients
        assert slides.groupby("patient_id").size().max() <= 4


def test_barcodes_have_the_structure_of_tcga_and_cannot_be_taken_for_it():
    plan = plan_cohort(CohortSpec(n_slides=180, seed=1, normal_share=0.1))
    pattern = r"SYNT-\d{2}-\d{4}-(01Z-00-DX[1-4]|01A-01-TS[1-4]|11A-01-TS1)"
    assert plan.slides["slide_id"].str.fullmatch(pattern).all() and plan.slides["slide_id"].is_unique
    assert (plan.slides["slide_id"].str[:12] == plan.slides["patient_id"]).all()
    assert (plan.slides["slide_id"].str[5:7] == plan.slides["site_id"]).all()
    assert plan.slides["site_id"].nunique() == 12
    frozen = ~plan.slides["slide_id"].str.contains("DX")
    assert (frozen == (plan.slides["sample_type"] == "frozen")).all()


@pytest.mark.parametrize("n_sites", [1, 2, 3, 12, 13, 99])
def test_scanners_are_mixed_as_declared(n_sites):
    slides = plan_cohort(CohortSpec(n_slides=180, seed=0, n_sites=n_sites)).slides
    assert slides["site_id"].nunique() == n_sites
    assert slides.groupby("site_id")[["objective", "mpp", "jpeg_quality"]].nunique().max().max() == 1
    assert set(slides.loc[slides["objective"] == 40, "mpp"]) <= {0.25, 0.2527}
    assert set(slides.loc[slides["objective"] == 20, "mpp"]) <= {0.5, 0.4990, 0.5029}
    if n_sites == 12:
        assert slides["mpp"].nunique() == 5 and 0.2 < (slides["objective"] == 40).mean() < 0.33
        power = slides.groupby("site_id")["objective"].first()
        assert (power == 40).sum() == 3 and (power.iloc[:4] == 40).sum() == 1  # as frequent among the high sites


@pytest.mark.parametrize("n_sites", [1, 3, 12, 30])
def test_one_site_writes_no_resolution_and_one_slide_neither_that_nor_the_power(n_sites):
    for seed in range(10):
        slides = plan_cohort(CohortSpec(n_slides=180, seed=seed, n_sites=n_sites)).slides
        neither = slides[~slides["power_in_metadata"]]
        power_only = slides[~slides["mpp_in_metadata"] & slides["power_in_metadata"]]
        assert len(neither) == 1 and not neither["mpp_in_metadata"].any() and (neither["objective"] == 20).all()
        assert power_only["site_id"].nunique() == (n_sites >= 3)
        assert (power_only["objective"] == 20).all() and (power_only["mpp"] == 10 / power_only["objective"]).all()
        assert slides.loc[slides["site_id"].isin(power_only["site_id"]), "power_in_metadata"].all()
    assert plan_cohort(CohortSpec(n_slides=9, n_sites=n_sites)).slides["power_in_metadata"].all()


def test_a_dozen_slides_show_every_kind_of_metadata_and_both_classes_of_the_strong_genes():
    for seed in range(10):
        slides = plan_cohort(CohortSpec(seed=seed)).slides
        kinds = set(zip(slides["mpp_in_metadata"], slides["power_in_metadata"], strict=True))
        assert kinds == {(True, True), (False, True), (False, False)} and (slides["objective"] == 40).any()
    for seed in range(50):
        labels = plan_cohort(CohortSpec(seed=seed)).labels
        status = labels.pivot(index="patient_id", columns="gene", values="status")
        assert status["TP53"].sum() >= 5 and (status["TP53"] == 0).sum() >= 5
        assert status["EGFR"].sum() >= 4 and (status["EGFR"] == 0).sum() >= 5
        assert status["STK11"].sum() >= 2


def test_labels_agree_with_the_truth_where_profiled_and_hide_a_few(cohorts):
    for plan in cohorts[:5]:
        joined = plan.labels.merge(plan.truth, on=["patient_id", "gene"], validate="1:1")
        known = joined["status"].notna()
        assert (joined.loc[known, "status"].astype(bool) == joined.loc[known, "mutated"]).all()
        assert not joined.loc[~known, "mutated"].any()
        assert (~known).groupby(joined["gene"]).sum().between(1, 4).all()
        assert (joined["variant_class"].notna() == joined["mutated"]).all()
        assert (plan.labels["source"] == f"synthetic cohort, seed {plan.spec.seed}").all()


def test_normal_slides_come_on_top_and_change_nothing_else():
    spec = CohortSpec(n_slides=60, seed=5)
    plain, more = plan_cohort(spec), plan_cohort(replace(spec, normal_share=0.25))
    pd.testing.assert_frame_equal(plain.slides, more.slides.iloc[:60])
    for name in TABLES[1:]:
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(more, name))
    normal = more.slides.iloc[60:]
    assert len(normal) == round(0.25 * 53) == normal["patient_id"].nunique()
    assert normal["slide_id"].str.endswith("-11A-01-TS1").all()
    assert (normal["sample_type"] == "frozen").all() and (normal["tumour_share"] == 0).all()
    assert set(normal["subtype"]) == {"normal"} and "normal" not in set(plain.slides["subtype"])


# Sizes
def test_a_single_section_is_its_tiles_and_a_margin_below_one_tile(cohorts):
    slides = cohorts[0].slides
    for side, tiles in (("width", 6), ("height", 4)):
        planned = slides[f"{side}_l0_px"] * slides["mpp"] / 0.5 - 512 * tiles
        assert planned.between(512 / 8, 512 * 0.76).all()
        assert (slides[f"{side}_l0_px"] % (8 * slides["objective"] // 20) == 0).all()
    assert (slides["width_l0_px"] == slides["section_l0_px_w"]).all()
    assert (slides["height_l0_px"] == slides["section_l0_px_h"]).all()
    assert (slides[["sections_across", "sections_down"]] == 1).all(axis=None)


@pytest.mark.parametrize("across", [1, 4])
def test_sections_of_a_larger_slide_end_where_tiles_end(across):
    slides = plan_cohort(replace(PRESETS["paper"], sections_across=across)).slides
    assert (slides[["section_l0_px_w", "section_l0_px_h"]] % 1024 == 0).all(axis=None)
    assert (slides["width_l0_px"] == across * slides["section_l0_px_w"]).all()
    assert (slides["height_l0_px"] == 3 * slides["section_l0_px_h"]).all()
    for side, tiles in (("w", 10), ("h", 8)):
        assert (slides[f"section_l0_px_{side}"] - tiles * 512 * 0.5 / slides["mpp"]).abs().max() <= 512
    assert (slides["section_l0_px_w"] > 9000).eq(slides["objective"] == 40).all()


def test_the_stress_slide_and_the_effects_of_presets_are_the_declared_ones():
    (row,) = plan_cohort(PRESETS["stress"]).slides.to_dict("records")
    assert row["width_l0_px"] == row["height_l0_px"] == 100_000
    assert (row["objective"], row["mpp"], row["mpp_in_metadata"], row["power_in_metadata"]) == (40, 0.25, True, True)
    assert row["section_l0_px_w"] == row["section_l0_px_h"] == 6144
    assert row["sections_across"] == row["sections_down"] == 17
    assert list(PRESETS) == ["smoke", "demo", "paper", "stress"]
    assert [PRESETS[p].n_slides for p in PRESETS] == [12, 180, 180, 1]
    assert all(spec.effects_in_force == EFFECTS for spec in PRESETS.values())


# Genes
def test_the_joint_distribution_keeps_prevalences_and_odds_ratios_and_adds_nothing():
    joint = joint_distribution()
    assert joint.sum() == pytest.approx(1) and joint.min() > 0 and not joint.flags.writeable
    for a, b in combinations(range(4), 2):
        pair = joint.sum(axis=tuple({0, 1, 2, 3} - {a, b}))
        assert pair[1].sum() == pytest.approx(PREVALENCE[ASSOCIATED[a]], abs=1e-8)
        declared = ODDS_RATIOS[ASSOCIATED[a], ASSOCIATED[b]]
        assert pair[1, 1] * pair[0, 0] / (pair[0, 1] * pair[1, 0]) == pytest.approx(declared, rel=1e-5)
    sign = 1 - 2 * np.indices(joint.shape)
    for axes in [*combinations(range(4), 3), range(4)]:  # maximum entropy: no term of three or four genes
        assert abs((np.log(joint) * np.prod(sign[list(axes)], axis=0)).sum()) < 1e-9


def test_confounding_and_pairs_that_contradict_the_prevalence_are_refused():
    pairs = [("TP53", "EGFR"), ("TP53", "KRAS"), ("EGFR", "KRAS")]
    impossible = ODDS_RATIOS | dict(zip(pairs, (1e6, 1e6, 1e-6), strict=True))
    with pytest.raises(ParameterError, match="No joint distribution"):
        joint_distribution(dict.fromkeys(ASSOCIATED, 0.4), impossible)
    with pytest.raises(ParameterError, match="confounded"):
        site_only_auc(0.6, 1.0)


def test_prevalences_are_the_declared_ones_and_controls_independent_of_every_gene(pooled):
    counts = pooled.to_numpy().reshape(N_COHORTS, N_PATIENTS, -1).sum(axis=1)
    for gene, drawn in zip(GENES, counts.T, strict=True):
        expected = PREVALENCE[gene] * N_PATIENTS
        assert_mean(drawn, expected)
        assert np.abs(drawn - expected).max() < (1 if gene in (*CONTROLS, "TP53") else 4), gene
    for first, second in combinations(GENES, 2):
        if first in CONTROLS or second in CONTROLS:
            estimate, error = log_odds_ratio(table_of(pooled[first], pooled[second]))
            assert abs(estimate) < 3 * error, (first, second)


@pytest.mark.parametrize(("first", "second"), list(ODDS_RATIOS))
def test_pairs_of_genes_have_the_declared_odds_ratio(pooled, first, second):
    estimate, error = log_odds_ratio(table_of(pooled[first], pooled[second]))
    assert abs(estimate - math.log(ODDS_RATIOS[first, second])) < 3 * error
    assert error < 0.15


def test_floors_give_no_patient_egfr_beside_kras_and_never_act_in_larger_cohorts(monkeypatch):
    sizes = [(n, seed) for n in (1, 2, 3, 5, 8, 11, 20, 35, 40, 41, 47, 160) for seed in range(20)]
    topped = {key: draw_mutations(*key) for key in sizes}
    monkeypatch.setattr(synthetic_genes, "FLOORS", {})
    for (n, seed), mutated in topped.items():
        drawn = draw_mutations(n, seed)
        assert not (drawn & ~mutated).any(axis=None)
        changed = mutated & ~drawn
        assert not (changed["EGFR"] & mutated["KRAS"]).any()
        assert n < 40 or not changed.any(axis=None)
        for gene, floor in FLOORS.items():
            eligible = (~mutated["KRAS"] | mutated["EGFR"]).sum() if gene == "EGFR" else n
            assert mutated[gene].sum() >= min(floor, n // 2, eligible)
            assert mutated[gene].sum() <= max(drawn[gene].sum(), n // 2)


def test_declared_genes_are_those_of_the_public_calls(shared_data):
    calls = pd.read_csv(
        shared_data / "tables/cbioportal_luad_lusc_mutations_by_gene.tsv", sep="\t", dtype=str, keep_default_na=False
    )
    calls = calls.loc[calls["STUDY_ID"].str.startswith("luad"), list(GENES)]
    assert len(calls) == 566 and not (calls == "NS").any(axis=None)  # NS: not sequenced
    changed = calls.map(lambda cell: any(c != "WT" and not c.endswith("=") for c in cell.split()))
    for gene in GENES:
        assert changed[gene].mean() == pytest.approx(PREVALENCE[gene], abs=0.0005), gene
    for pair, declared in ODDS_RATIOS.items():
        estimate, _ = log_odds_ratio(table_of(changed[pair[0]], changed[pair[1]]))
        assert math.exp(estimate) == pytest.approx(declared, abs=0.005), pair


# Effects
@pytest.mark.parametrize("gene", EFFECTS)
def test_latents_reach_the_bayes_auc_on_average(cohorts, gene):
    rows = [of_gene(plan, gene) for plan in cohorts]
    auc = np.array([oracle_auc(r["mutated"].to_numpy(), r["latent"].to_numpy()) for r in rows])
    expected = 0.5 * (1 + math.erf(EFFECTS[gene].d / 2))
    assert EFFECTS[gene].bayes_auc == pytest.approx(expected)
    assert_mean(auc, expected)
    assert auc.std(ddof=1) / math.sqrt(N_COHORTS) < 0.005


def test_factors_follow_from_latents_and_controls_have_none(cohorts):
    plan = cohorts[0]
    for gene, effect in EFFECTS.items():
        rows = of_gene(plan, gene)
        assert (rows["d"] == effect.d).all() and (rows["attribute"] == effect.attribute).all()
        assert (rows["where"] == effect.where).all()
        np.testing.assert_allclose(rows["factor"], np.exp(effect.log_step * rows["latent"]))
    controls = plan.truth[plan.truth["gene"].isin(CONTROLS)]
    assert controls[["latent", "attribute", "where", "factor"]].isna().all(axis=None) and (controls["d"] == 0).all()
    patient = plan.clinical["patient_id"].iloc[3]
    of_patient = plan.truth[(plan.truth["patient_id"] == patient) & plan.truth["factor"].notna()]
    assert plan.factors(patient) == dict(zip(of_patient["attribute"], of_patient["factor"], strict=True))
    assert set(plan.factors(patient)) == {e.attribute for e in EFFECTS.values()}
    with pytest.raises(ParameterError, match="SYNT-99-9999"):
        plan.factors("SYNT-99-9999")


def test_effects_can_be_scaled_and_replaced():
    plan = plan_cohort(CohortSpec(effects=(("EGFR", 3.0),), effect_scale=0.5))
    effects = plan.effects.set_index("gene")
    assert list(effects.index) == list(GENES)
    assert effects["d"].to_dict() == dict.fromkeys(CONTROLS, 0.0) | {"TP53": 1, "EGFR": 1.5, "STK11": 0.6, "KRAS": 0.75}
    assert effects.loc["EGFR", "bayes_auc"] == EFFECTS["EGFR"].bayes_auc
    assert (effects.loc[CONTROLS, "bayes_auc"] == 0.5).all() and effects.loc[CONTROLS, "attribute"].isna().all()
    assert plan.truth.groupby("gene")["d"].first().to_dict() == effects["d"].to_dict()


def test_a_cohort_and_its_twin_without_effects_differ_in_the_planted_part_only():
    spec = CohortSpec(n_slides=180, seed=11, site_confounding=0.5, normal_share=0.1)
    cohort, twin = plan_cohort(spec), plan_cohort(replace(spec, effect_scale=0.0))
    for name in TABLES[:3]:
        pd.testing.assert_frame_equal(getattr(cohort, name), getattr(twin, name))
    same = ["patient_id", "gene", "mutated", "attribute", "where"]
    pd.testing.assert_frame_equal(cohort.truth[same], twin.truth[same])
    planted = cohort.truth["latent"] - cohort.truth["d"] * cohort.truth["mutated"]
    np.testing.assert_allclose(planted, twin.truth["latent"], atol=1e-12)
    assert (twin.truth["d"] == 0).all() and (twin.effects["bayes_auc"] == 0.5).all()
    assert twin.truth["latent"].std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("change", [{"artefact_rate": 0.0}, {"artefact_rate": 3.0}, {"outline_error_um": 0.0}])
def test_artefacts_and_outline_errors_change_nothing_else(change):
    spec = CohortSpec(n_slides=180, seed=12)
    plain, other = plan_cohort(spec), plan_cohort(replace(spec, **change))
    pd.testing.assert_frame_equal(plain.slides.drop(columns=N_COLUMNS), other.slides.drop(columns=N_COLUMNS))
    for name in TABLES[1:]:
        pd.testing.assert_frame_equal(getattr(plain, name), getattr(other, name))
    direction = math.copysign(1, change.get("artefact_rate", 1.0) - 1)
    assert ((other.slides[N_COLUMNS] - plain.slides[N_COLUMNS]) * direction >= 0).all(axis=None)


def test_artefacts_are_as_frequent_as_declared(cohorts):
    counts = pd.concat([c.slides[N_COLUMNS] for c in cohorts])
    assert counts.min().min() == 0 and counts.max().max() == 2
    for kind, mean in ARTEFACTS.items():
        none, one = math.exp(-mean), mean * math.exp(-mean)
        assert_mean(counts[f"n_{kind}"], one + 2 * (1 - none - one))
    without = plan_cohort(CohortSpec(n_slides=180, artefact_rate=0.0)).slides
    assert (without[N_COLUMNS] == 0).all(axis=None)


# Sites
def site_aucs(confounding, gene="KRAS"):
    """AUC of "the site is a high one" in 200 cohorts."""
    drawn = []
    for seed in range(N_COHORTS):
        mutated = draw_mutations(N_PATIENTS, seed)
        high = at_high_site(mutated["KRAS"].to_numpy(), confounding, HIGH_SITE_SHARE, seed)
        drawn.append(oracle_auc(mutated[gene].to_numpy(), high.astype(float)))
    return drawn


@pytest.mark.parametrize("confounding", [0.0, 0.5, 1.0])
def test_declared_confounding_gives_the_declared_auc_of_the_site_alone(confounding):
    pi, f = PREVALENCE["KRAS"], HIGH_SITE_SHARE
    expected = site_only_auc(pi, confounding)
    assert expected == pytest.approx(0.5 + confounding * (1 - f) / (2 * (1 - pi)))
    assert_mean(site_aucs(confounding), expected)


@pytest.mark.parametrize("gene", ["TP53", "STK11", "POLE"])
def test_other_genes_know_the_site_through_kras_only(gene):
    high, kras, other = [], [], []
    for seed in range(N_COHORTS):
        mutated = draw_mutations(N_PATIENTS, seed)
        kras.append(mutated["KRAS"].to_numpy())
        other.append(mutated[gene].to_numpy())
        high.append(at_high_site(kras[-1], 0.5, HIGH_SITE_SHARE, seed))
    high, kras, other = (np.concatenate(x) for x in (high, kras, other))
    for status in (False, True):
        estimate, error = log_odds_ratio(table_of(high[kras == status], other[kras == status]))
        assert abs(estimate) < 3 * error
    share = 0.0
    if gene in ASSOCIATED:
        axes = tuple(set(range(3)) - {ASSOCIATED.index(gene)})
        pair = joint_distribution().sum(axis=axes)
        share = pair[1, 1] / pair[1].sum() - pair[0, 1] / pair[0].sum()
    expected = 0.5 + (site_only_auc(PREVALENCE["KRAS"], 0.5) - 0.5) * share
    assert oracle_auc(other, high.astype(float)) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("n_sites", [1, 2, 7, 12])
def test_a_plan_confounds_its_first_third_of_sites_and_nothing_but_sites(n_sites):
    spec = CohortSpec(n_slides=180, seed=6, n_sites=n_sites)
    plain, confounded = plan_cohort(spec), plan_cohort(replace(spec, site_confounding=1.0))
    assert spec.n_high_sites == math.ceil(n_sites / 3) == round(spec.high_site_share * n_sites)
    columns = ["gene", "mutated", "d", "latent", "factor"]
    pd.testing.assert_frame_equal(plain.truth[columns], confounded.truth[columns])
    pd.testing.assert_frame_equal(
        plain.clinical.drop(columns=["patient_id", "site_id"]),
        confounded.clinical.drop(columns=["patient_id", "site_id"]),
    )
    pd.testing.assert_frame_equal(plain.slides[N_COLUMNS], confounded.slides[N_COLUMNS])
    kras = of_gene(confounded, "KRAS")["mutated"].to_numpy()
    high = confounded.clinical["site_id"].astype(int).to_numpy() <= spec.n_high_sites
    assert (high == at_high_site(kras, 1.0, spec.high_site_share, spec.seed)).all() and high[kras].all()
    assert oracle_auc(kras, high.astype(float)) == pytest.approx(
        site_only_auc(PREVALENCE["KRAS"], 1.0, spec.high_site_share), abs=0.02
    )
    for group in (high, ~high):
        sizes = confounded.clinical.loc[group].groupby("site_id").size()
        assert n_sites == 1 or sizes.max() - sizes.min() <= 1


# Readers
def test_the_oracle_counts_ties_by_half_and_needs_two_classes():
    positive = np.array([True, False, True, False])
    assert oracle_auc(positive, np.array([2.0, 1.0, 3.0, 0.0])) == 1
    assert oracle_auc(positive, np.zeros(4)) == 0.5
    assert oracle_auc(positive, np.array([1.0, 1.0, 0.0, 0.0])) == 0.5
    assert math.isnan(oracle_auc(np.ones(3, bool), np.arange(3.0)))


def test_a_gene_is_read_through_its_neighbours_as_far_as_they_are_associated():
    assert neighbour_auc("POLE", ["TP53", "EGFR", "STK11", "KRAS"]) == 0.5
    assert neighbour_auc("KRAS", []) == neighbour_auc("KRAS", ["POLE", "DNMT3A"]) == 0.5
    one, three = (neighbour_auc("KRAS", genes, n=50_000) for genes in (["TP53"], ["TP53", "EGFR", "STK11"]))
    assert 0.52 < one < three < 0.75
    assert three == neighbour_auc("KRAS", ("STK11", "EGFR", "TP53"), n=50_000)
    blind = {g: replace(e, d=0.0) for g, e in EFFECTS.items()}
    assert neighbour_auc("KRAS", ["TP53", "EGFR"], n=1000, effects=blind) == pytest.approx(0.5)


@pytest.mark.parametrize(("gene", "readable"), [("KRAS", ["KRAS"]), ("KEAP1", ["TP53"]), ("KRAS", ["KEAP1"])])
def test_a_neighbourhood_that_makes_no_sense_is_refused(gene, readable):
    with pytest.raises(ParameterError, match=r"KRAS|KEAP1"):
        neighbour_auc(gene, readable)


@pytest.mark.parametrize(("name", "value"), [
    ("n_slides", 0), ("n_slides", 2.5), ("seed", -1), ("n_patients", 13), ("n_patients", 2), ("n_sites", 100),
    ("grid_rows", 0), ("sections_across", 0), ("tile_px", 8), ("effects", (("POLE", 1.0),)),
    ("effects", (("TP53", -1.0),)), ("effect_scale", -0.1), ("site_confounding", 1.1), ("artefact_rate", math.nan),
    ("outline_error_um", -1.0), ("normal_share", 2.0), ("level0_px", 100_000),  # of a dozen slides
])  # fmt: skip
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ParameterError, match=f"{name}.*Got: .*Expected: "):
        CohortSpec(**{name: value})
