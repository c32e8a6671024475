"""The GDC and cBioPortal on this machine, serving synthetic slides: a rehearsal of the TCGA route.

    deeplrhe synth smoke --out build/rehearsal
    python -m tests.stand_ins.rehearsal build/rehearsal

It prints two addresses, and serves until it is stopped. Slides become patients of their own, in turn of TCGA-LUAD and
TCGA-LUSC, frozen and diagnostic; every sixth is offered as frozen normal tissue of the patient before. Labels and
clinical data are those of the synthetic patient. Names begin with SYNT instead of TCGA, so that nobody takes the tables
of a rehearsal for real ones.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from deeplrhe_utils.acquisition.barcodes import patient_of
from deeplrhe_utils.acquisition.labels.labels import read_labels
from tests.stand_ins.cbioportal import CBioPortalStandIn, study_from_labels
from tests.stand_ins.gdc import GdcStandIn, Offered, offered

STUDIES = {"TCGA-LUAD": "luad_tcga_pan_can_atlas_2018", "TCGA-LUSC": "lusc_tcga_pan_can_atlas_2018"}
_DAYS = 365.25


class Rehearsal(ExitStack):
    """Both services; a context manager. `gdc` and `portal` are the stand-ins.

    Parameters
    ----------
    folder : Path
        As ``deeplrhe synth`` writes it: slides, labels.csv and clinical.csv.
    ports : (int, int)
        Of the GDC and of cBioPortal; 0 for any.
    """

    def __init__(self, folder: Path, ports: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        slides = sorted((folder / "slides").glob("*.svs"))
        if not slides:
            raise FileNotFoundError(f"{folder / 'slides'} holds no slides: run `deeplrhe synth smoke --out {folder}`")
        labels = read_labels(folder / "labels.csv")
        clinical = pd.read_csv(folder / "clinical.csv").set_index("patient_id").to_dict("index")
        files, cases, own = [], [], []
        for number, path in enumerate(slides):
            files.append(disguised(number, path, files[-1] if files else None))
            patient, project = files[-1].case, files[-1].project
            if patient not in {known["submitter_id"] for known in cases}:
                source = patient_of(path.stem)
                cases.append(case(patient, project, clinical.get(source, {})))
                own.append(labels[labels["patient_id"] == source].assign(patient_id=patient, project=project))
        known = pd.concat(own, ignore_index=True)
        studies = [
            study_from_labels(known[known["project"] == project], name, cancer_type=name[:4])
            for project, name in STUDIES.items()
        ]
        self.gdc = GdcStandIn(files, cases, release="Data Release 0.0 - synthetic rehearsal", port=ports[0])
        self.portal = CBioPortalStandIn(studies, port=ports[1])

    def __enter__(self) -> Rehearsal:
        self.enter_context(self.gdc)
        self.enter_context(self.portal)
        return self


def disguised(number: int, path: Path, before: Offered | None) -> Offered:
    """The file that a synthetic slide is offered as; its site is kept."""
    end = f".{number:08d}-0000-4000-8000-000000000000.svs"
    if number % 6 == 5 and before is not None:
        name = f"{before.case}-11A-01-TS1{end}"
        return offered(name, path, case=before.case, project=before.project, strategy="Tissue Slide")
    patient = f"SYNT-{path.stem.split('-')[1]}-{number:04d}"
    frozen, project = number % 2 == 1, list(STUDIES)[number // 2 % 2]
    kind, strategy = ("01A-01-TS1", "Tissue Slide") if frozen else ("01Z-00-DX1", "Diagnostic Slide")
    return offered(f"{patient}-{kind}{end}", path, case=patient, project=project, strategy=strategy)


def case(patient: str, project: str, told: dict[str, object]) -> dict[str, object]:
    """A case in the GDC's form."""
    smoking = {"never": "Lifelong Non-Smoker", "current": "Current Smoker",
               "former": "Current Reformed Smoker for > 15 yrs"}  # fmt: skip
    age = told.get("age_years")
    diagnosis = {"submitter_id": f"{patient}_diagnosis", "ajcc_pathologic_stage": f"Stage {told.get('stage', 'X')}A",
                 "age_at_diagnosis": None if age is None else round(float(age) * _DAYS)}  # fmt: skip
    return {
        "case_id": patient.lower(), "submitter_id": patient, "project": {"project_id": project},
        "demographic": {"sex_at_birth": told.get("sex"), "vital_status": str(told.get("vital_status", "")).title()},
        "diagnoses": [diagnosis],
        "exposures": [{"tobacco_smoking_status": smoking.get(str(told.get("smoking")), "Not Reported")}],
    }  # fmt: skip


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="Serve synthetic slides as the GDC and cBioPortal would.")
    parser.add_argument("folder", type=Path, help="as written by `deeplrhe synth`")
    parser.add_argument("--ports", type=int, nargs=2, default=(8461, 8462), metavar=("GDC", "CBIOPORTAL"))
    options = parser.parse_args()
    with Rehearsal(options.folder, tuple(options.ports)) as rehearsal:
        print(f"{len(rehearsal.gdc.files)} synthetic slides. To rehearse, add to the command of the route:", flush=True)
        print(f"  -p gdc_endpoint={rehearsal.gdc.url} -p cbioportal_endpoint={rehearsal.portal.url}", flush=True)
        try:
            time.sleep(1e9)
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
