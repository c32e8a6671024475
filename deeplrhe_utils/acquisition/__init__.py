"""Which patients and slides there are, what is known of them, and how the files come here.

- `labels`: mutated, wild type, not profiled: from hand-written CSV, MAF, cBioPortal tables, DeepPATH lists
- `services`: the GDC and cBioPortal over HTTP; manifests and their repair; files fetched in parallel, each verified
- `cohort`: declared rules, the draw, the signed cohort
- `idc`: slides of CPTAC from the Imaging Data Commons: its index, and what its bucket holds
- `barcodes`: patient, sample and slide of a TCGA barcode
- `features`: vectors in place of slides, read and written as others write them
- `clinical_file`: clinical data under the names that others give
- `tile_folder`: labelled tiles in folders, one per class
"""
