"""The plan of a synthetic cohort: what is declared is what is drawn, over two hundred cohorts."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from deeplrhe_utils.core.errors import ParameterError
from deeplrhe_utils.core.paths import REFERENCE_DATA
from deeplrhe_utils.core.tables.contract import conform
from deeplrhe_utils.core.tables.truth import TRUTH_GENES
from deeplrhe_utils.synthetic import genes as synthetic_genes
from deeplrhe_utils.synthetic.genes import (
    ASSOCIATED,
    EFFECTS,
    FLOORS,
    GENE_SETS,
    GENES,
    HIGH_SITE_SHARE,
    HISTOLOGIES,
    ODDS_RATIOS,
    at_high_site,
    draw_patients,
    neighbour_auc,
    oracle_auc,
    population,
    site_only_auc,
)
from deeplrhe_utils.synthetic.plan import ARTEFACTS, PRESETS, SLIDE_COLUMNS, CohortSpec, plan_cohort

N_COHORTS, N_PATIENTS = 200, 160
PEOPLE = population()
CONTROLS = [g for g in GENES if g not in ASSOCIATED]
TABLES = ("slides", "labels", "clinical", "truth")
N_COLUMNS = [f"n_{kind}" for kind in ARTEFACTS]


@pytest.fixture(scope="module")
def cohorts():
    """Two hundred plans of 180 slides, seeds 0–199."""
    return [plan_cohort(CohortSpec(n_slides=180, seed=s)) for s in range(N_COHORTS)]


@pytest.fixture(scope="module")
def pooled(cohorts):
    """Patients of all cohorts together: diagnosis, sex, smoking, and a boolean per gene."""
    wide = [c.truth["mutated"].to_numpy().reshape(-1, len(GENES)) for c in cohorts]
    who = pd.concat([c.clinical[["histology", "sex", "smoking"]] for c in cohorts], ignore_index=True)
    return who.join(pd.DataFrame(np.vstack(wide), columns=list(GENES)))


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


def test_patients_have_one_to_four_slides_sites_fill_evenly_and_a_third_are_squamous(cohorts):
    counts = [frozenset(c.slides.groupby("patient_id").size()) for c in cohorts]
    assert frozenset.union(*counts) == {1, 2, 3, 4}
    assert max(map(max, counts)) == 4 and {1, 2, 3, 4} in counts
    for plan in cohorts[:20]:
        sizes = plan.clinical.groupby("site_id").size()
        assert len(sizes) == 12 and sizes.max() - sizes.min() <= 2
        assert (plan.clinical["histology"] == "squamous").sum() == round(0.35 * 160)


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
        assert status["TP53"].sum() >= 5 and (status["TP53"] == 0).sum() >= 3
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
def test_the_joint_distribution_keeps_shares_and_odds_ratios_and_adds_nothing():
    inside = np.tensordot(PEOPLE.within("adenocarcinoma"), PEOPLE.joint, 1)
    assert inside.sum() == pytest.approx(1) and PEOPLE.joint.min() > 0 and not PEOPLE.joint.flags.writeable
    for a, b in combinations(range(4), 2):
        pair = inside.sum(axis=tuple({0, 1, 2, 3} - {a, b}))
        declared = ODDS_RATIOS[ASSOCIATED[a], ASSOCIATED[b]]
        assert pair[1, 1] * pair[0, 0] / (pair[0, 1] * pair[1, 0]) == pytest.approx(declared, rel=1e-6)
        for stratum, chance in zip(PEOPLE.joint, PEOPLE.chance, strict=True):
            margin = stratum.sum(axis=tuple({0, 1, 2, 3} - {a}))[1]
            assert margin == pytest.approx(chance[GENES.index(ASSOCIATED[a])], abs=1e-9)
    sign = 1 - 2 * np.indices(PEOPLE.joint.shape[1:])
    for axes in [*combinations(range(4), 3), range(4)]:  # no term of three or four genes, in any stratum
        terms = (np.log(PEOPLE.joint) * np.prod(sign[list(axes)], axis=0)).sum(axis=(1, 2, 3, 4))
        assert np.abs(terms).max() < 1e-6


def test_sites_that_contradict_the_prevalence_are_refused():
    with pytest.raises(ParameterError, match="confounded"):
        site_only_auc(0.6, 1.0)


def test_both_gene_sets_have_the_counted_share_of_mutated_patients_in_each_diagnosis():
    told = pd.read_csv(REFERENCE_DATA / "tcga_lung_smoking.csv")
    counts = told.groupby(["gene", "histology"])[["mutated", "profiled"]].sum()
    for genes in GENE_SETS.values():
        people = population(genes)
        for gene in genes:
            for histology in HISTOLOGIES:
                mutated, profiled = counts.loc[gene, histology]
                assert people.prevalence(gene, histology) == pytest.approx(mutated / profiled, abs=1e-9)


def test_a_stratum_with_many_patients_keeps_its_own_share():
    """EGFR is a gene of women who never smoked, KRAS of smokers: also in the planted cohort."""
    row = PEOPLE.strata.reset_index().set_index(["histology", "sex", "smoking"])["index"]
    never, former = (row["adenocarcinoma", "female", smoking] for smoking in ("never", "former"))
    egfr, kras = (PEOPLE.chance[:, GENES.index(gene)] for gene in ("EGFR", "KRAS"))
    assert egfr[never] > 2 * egfr[former] and kras[former] > 2 * kras[never]


def test_drawn_patients_have_the_declared_shares_by_diagnosis_smoking_and_sex(pooled):
    """Each count over 200 cohorts lies within three and a half standard errors; 12 strata × 8 genes are many looks."""
    shares = PEOPLE.strata.set_index(["histology", "sex", "smoking"])
    groups = pooled.groupby(["histology", "sex", "smoking"])
    sizes = groups.size()
    assert np.abs(sizes / len(pooled) - shares["share"]).max() < 0.001
    for gene in GENES:
        expected = pd.Series(PEOPLE.chance[:, GENES.index(gene)], shares.index)
        error = np.sqrt(expected * (1 - expected) / sizes)
        assert (((groups[gene].mean() - expected) / error).abs() < 3.5).all(), gene
    counts = pooled[list(GENES)].to_numpy().reshape(N_COHORTS, N_PATIENTS, -1).sum(axis=1)
    for gene, drawn in zip(GENES, counts.T, strict=True):
        assert_mean(drawn, PEOPLE.prevalence(gene) * N_PATIENTS)
        assert np.abs(drawn - drawn.mean()).max() < 7, (
            gene
        )  # of 160; a binomial count would scatter over three times it


@pytest.mark.parametrize("gene", GENES)
def test_a_gene_goes_with_the_diagnosis_as_declared(pooled, gene):
    """Odds ratio of adenocarcinoma against squamous carcinoma, and AUC of the diagnosis, over 200 cohorts."""
    first = (pooled["histology"] == "adenocarcinoma").to_numpy()
    estimate, error = log_odds_ratio(table_of(first, pooled[gene].to_numpy()))
    p, q = (PEOPLE.prevalence(gene, h) for h in HISTOLOGIES)
    assert abs(estimate - math.log(p * (1 - q) / (q * (1 - p)))) < 3.5 * error


@pytest.fixture(scope="module")
def crowd():
    """Three hundred thousand patients: the rarest gene has enough carriers for two decimals of an AUC."""
    return draw_patients(300_000, 1, PEOPLE)


@pytest.mark.parametrize("gene", GENES)
def test_diagnosis_smoking_and_sex_alone_have_the_auc_that_the_truth_tells(crowd, gene):
    carries, first = crowd[gene].to_numpy(bool), (crowd["histology"] == "adenocarcinoma").to_numpy(float)
    drawn = oracle_auc(carries, first)
    assert max(drawn, 1 - drawn) == pytest.approx(PEOPLE.diagnosis_auc(gene), abs=0.01)
    chance = crowd.merge(PEOPLE.strata.assign(chance=PEOPLE.chance[:, GENES.index(gene)]), how="left")[
        "chance"
    ].to_numpy()
    assert oracle_auc(carries, chance) == pytest.approx(PEOPLE.clinical_auc(gene), abs=0.01)
    own = first > 0
    assert oracle_auc(carries[own], chance[own]) == pytest.approx(PEOPLE.clinical_auc(gene, "adenocarcinoma"), abs=0.01)


@pytest.mark.parametrize("confounding", [0.0, 0.5])
@pytest.mark.parametrize("gene", ["KRAS", "TP53", "EGFR"])
def test_a_weaker_tie_to_the_diagnosis_gives_the_declared_auc_of_the_diagnosis(gene, confounding):
    people = population(histology_confounding=confounding)
    excess = [population(histology_confounding=c).diagnosis_auc(gene) - 0.5 for c in (confounding, 1.0)]
    assert excess[0] == pytest.approx(confounding * excess[1], abs=1e-9)
    assert people.prevalence(gene) == pytest.approx(PEOPLE.prevalence(gene))
    drawn = [draw_patients(N_PATIENTS, seed, people) for seed in range(N_COHORTS)]
    both = pd.concat(drawn, ignore_index=True)
    auc = oracle_auc(both[gene].to_numpy(), (both["histology"] == "adenocarcinoma").to_numpy(float))
    assert max(auc, 1 - auc) == pytest.approx(people.diagnosis_auc(gene), abs=0.01)


def test_cohorts_of_one_diagnosis_have_nothing_to_confound():
    for share in (0.0, 1.0):
        plan = plan_cohort(CohortSpec(n_slides=60, squamous_share=share))
        assert plan.clinical["histology"].nunique() == 1 and (plan.genes["diagnosis_auc"] == 0.5).all()
        pd.testing.assert_frame_equal(plan.genes, conform(plan.genes, TRUTH_GENES))
        assert plan.genes["prevalence_squamous"].isna().all() == (share == 0)


def test_controls_are_independent_of_every_gene_within_a_stratum(pooled):
    for first, second in combinations(GENES, 2):
        if first in CONTROLS or second in CONTROLS:  # Mantel and Haenszel's odds ratio over the strata is 1
            tables = [table_of(own[first], own[second]) for _, own in pooled.groupby(["histology", "sex", "smoking"])]
            over = sum(t[1, 1] * t[0, 0] / t.sum() for t in tables)
            under = sum(t[0, 1] * t[1, 0] / t.sum() for t in tables)
            expected = sum(t[1].sum() * t[:, 1].sum() / t.sum() for t in tables)
            spread = sum(t[0].sum() * t[1].sum() * t[:, 0].sum() * t[:, 1].sum() / t.sum() ** 2 / (t.sum() - 1)
                         for t in tables)  # fmt: skip
            assert abs(sum(t[1, 1] for t in tables) - expected) < 3.5 * math.sqrt(spread), (first, second, over / under)


@pytest.mark.parametrize(("first", "second"), list(ODDS_RATIOS))
def test_pairs_of_genes_have_the_declared_odds_ratio_among_adenocarcinomas(pooled, first, second):
    own = pooled[pooled["histology"] == "adenocarcinoma"]
    estimate, error = log_odds_ratio(table_of(own[first], own[second]))
    assert abs(estimate - math.log(ODDS_RATIOS[first, second])) < 3 * error
    assert error < 0.2


def test_floors_give_no_patient_egfr_beside_kras_and_never_act_in_larger_cohorts(monkeypatch):
    sizes = [(n, seed) for n in (1, 2, 3, 5, 8, 11, 20, 35, 47, 80, 81, 160) for seed in range(20)]
    topped = {key: draw_patients(*key, PEOPLE)[list(GENES)] for key in sizes}
    monkeypatch.setattr(synthetic_genes, "FLOORS", {})
    for (n, seed), mutated in topped.items():
        drawn = draw_patients(n, seed, PEOPLE)[list(GENES)]
        assert not (drawn & ~mutated).any(axis=None)
        changed = mutated & ~drawn
        assert not (changed["EGFR"] & mutated["KRAS"]).any()
        assert n < 80 or not changed.any(axis=None)
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
        assert changed[gene].mean() == pytest.approx(PEOPLE.prevalence(gene, "adenocarcinoma"), abs=0.0005), gene
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
    effects = plan.genes.set_index("gene")
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
    assert (twin.truth["d"] == 0).all() and (twin.genes["bayes_auc"] == 0.5).all()
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
@pytest.fixture(scope="module")
def drawn():
    """Two hundred cohorts' patients."""
    return [draw_patients(N_PATIENTS, seed, PEOPLE) for seed in range(N_COHORTS)]


def high_sites(drawn, confounding):
    """Who comes from a high site, cohort by cohort."""
    at = (confounding, HIGH_SITE_SHARE)
    return [at_high_site(d["KRAS"].to_numpy(), PEOPLE.prevalence("KRAS"), *at, seed) for seed, d in enumerate(drawn)]


@pytest.mark.parametrize("confounding", [0.0, 0.5, 1.0])
def test_declared_confounding_gives_the_declared_auc_of_the_site_alone(drawn, confounding):
    pi, f = PEOPLE.prevalence("KRAS"), HIGH_SITE_SHARE
    expected = site_only_auc(pi, confounding)
    assert expected == pytest.approx(0.5 + confounding * (1 - f) / (2 * (1 - pi)))
    high = high_sites(drawn, confounding)
    assert_mean([oracle_auc(d["KRAS"].to_numpy(), h.astype(float)) for d, h in zip(drawn, high, strict=True)], expected)


@pytest.mark.parametrize("gene", ["TP53", "STK11", "POLE"])
def test_other_genes_know_the_site_through_kras_only(drawn, gene):
    high = np.concatenate(high_sites(drawn, 0.5))
    kras, other = (np.concatenate([d[name] for d in drawn]).astype(bool) for name in ("KRAS", gene))
    for status in (False, True):
        estimate, error = log_odds_ratio(table_of(high[kras == status], other[kras == status]))
        assert abs(estimate) < 3 * error
    found = oracle_auc(other, high.astype(float))
    assert max(found, 1 - found) == pytest.approx(PEOPLE.site_auc(gene, 0.5, HIGH_SITE_SHARE), abs=0.015)


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
    pi = PEOPLE.prevalence("KRAS")
    assert (high == at_high_site(kras, pi, 1.0, spec.high_site_share, spec.seed)).all() and high[kras].all()
    assert oracle_auc(kras, high.astype(float)) == pytest.approx(site_only_auc(pi, 1.0, spec.high_site_share), abs=0.02)
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


def test_a_gene_is_read_through_the_diagnosis_and_through_its_neighbours():
    others = ["TP53", "EGFR", "STK11"]
    assert neighbour_auc("POLE", [*others, "KRAS"], PEOPLE) == pytest.approx(PEOPLE.diagnosis_auc("POLE"))
    assert neighbour_auc("KRAS", [], PEOPLE) == pytest.approx(PEOPLE.diagnosis_auc("KRAS"), abs=0.005)
    inside = {"histology": "adenocarcinoma"}
    assert neighbour_auc("POLE", others, PEOPLE, **inside) == pytest.approx(0.5)
    assert neighbour_auc("KRAS", ["POLE"], PEOPLE, **inside) == 0.5
    one, three = (neighbour_auc("KRAS", genes, PEOPLE, n=50_000, **inside) for genes in (["TP53"], others))
    assert 0.52 < one < three < 0.75 < neighbour_auc("KRAS", others, PEOPLE, n=50_000)
    assert three == neighbour_auc("KRAS", others[::-1], PEOPLE, n=50_000, **inside)
    blind = {g: replace(e, d=0.0) for g, e in EFFECTS.items()}
    assert neighbour_auc("KRAS", ["TP53"], PEOPLE, n=1000, effects=blind, **inside) == pytest.approx(0.5)


def test_showcase_slides_are_large_of_both_tumours_and_one_has_every_artefact():
    spec = CohortSpec(n_slides=60, seed=3, normal_share=0.2)
    plain, shown = plan_cohort(spec).slides, plan_cohort(replace(spec, n_showcase=2)).slides
    large = shown[shown["width_l0_px"] > 18 * 512]
    assert set(large["subtype"]) == set(HISTOLOGIES) and (large["height_l0_px"] > 12 * 512).all()
    assert (large["objective"] == 20).all() and large["mpp_in_metadata"].all()
    counts = large.set_index("subtype")[N_COLUMNS]
    assert (counts.loc["adenocarcinoma"] == 1).all() and (counts.loc["squamous"] == 0).all()
    rest = ~shown["slide_id"].isin(large["slide_id"])
    pd.testing.assert_frame_equal(plain[rest], shown[rest])


@pytest.mark.parametrize(("gene", "readable"), [("KRAS", ["KRAS"]), ("KEAP1", ["TP53"]), ("KRAS", ["KEAP1"])])
def test_a_neighbourhood_that_makes_no_sense_is_refused(gene, readable):
    with pytest.raises(ParameterError, match=r"KRAS|KEAP1"):
        neighbour_auc(gene, readable, PEOPLE)


@pytest.mark.parametrize(("name", "value"), [
    ("n_slides", 0), ("n_slides", 2.5), ("seed", -1), ("n_patients", 13), ("n_patients", 2), ("n_sites", 100),
    ("grid_rows", 0), ("sections_across", 0), ("tile_px", 8), ("effects", (("POLE", 1.0),)),
    ("effects", (("TP53", -1.0),)), ("effect_scale", -0.1), ("site_confounding", 1.1), ("artefact_rate", math.nan),
    ("outline_error_um", -1.0), ("normal_share", 2.0), ("gene_set", "all"),
    ("squamous_share", 1.5), ("histology_confounding", -0.1), ("n_showcase", 3),
    ("level0_px", 100_000),  # of a dozen slides
])  # fmt: skip
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ParameterError, match=f"{name}.*Got: .*Expected: "):
        CohortSpec(**{name: value})
