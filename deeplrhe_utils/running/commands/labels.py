"""``deeplrhe labels``: a table of labels from files of mutations."""

from __future__ import annotations

import argparse
from pathlib import Path

from deeplrhe_utils.core.files import check_new_file
from deeplrhe_utils.running.commands import OK, Commands, listed_names, say


def add_parser(commands: Commands) -> None:
    """What may be typed."""
    parser = commands.add_parser(
        "labels",
        help="a table of labels from MAF files and the like",
        description="Read mutations from a MAF (of the GDC or cBioPortal, plain or gzip), cBioPortal's table of "
        "mutations by gene or DeepPATH's labels_r3.txt, and write patient_id and a column per gene: 1 mutated, 0 wild "
        "type, empty not profiled. A patient of several files is 1 if any says so. docs/mutation-labels.md tells more.",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="files of mutations, or folders of MAFs")
    add("--genes", type=listed_names, required=True, metavar="GENE[,GENE]", help="columns of the table")
    add("--out", type=Path, required=True, metavar="FILE", help="CSV to write; nothing is written over")
    add(
        "--profiled", type=Path, default=None, metavar="FILE", help="patients or samples profiled for all, one per line"
    )
    add("--drivers", type=Path, default=None, metavar="FILE", help="gene,protein_change: only these changes count")
    add("--compare", type=Path, default=None, metavar="FILE", help="another source; tell how far both agree")


def run(options: argparse.Namespace) -> int:
    """Read, tell what was read and what was left out, and write."""
    from deeplrhe_utils.acquisition.labels.agreement import label_agreement
    from deeplrhe_utils.acquisition.labels.labels import joined_labels, wide_labels
    from deeplrhe_utils.acquisition.labels.mutation_files import read_mutations
    from deeplrhe_utils.acquisition.labels.variants import DEFAULT_RULE, VariantRule, read_drivers
    from deeplrhe_utils.core.tables.foreign import foreign_lines, write_sheet

    check_new_file(options.out)
    rule = VariantRule(drivers=read_drivers(options.drivers)) if options.drivers else DEFAULT_RULE
    names = None
    if options.profiled:
        names = foreign_lines(options.profiled)
    found = [read_mutations(path, options.genes, rule, profiled=names) for path in options.files]
    for path, calls in zip(options.files, found, strict=True):
        say("\n".join([f"{path}: {calls.form}", *calls.notes, calls.ledger.to_string(index=False)]))
    labels = joined_labels([calls.labels for calls in found])
    if options.compare:
        other = read_mutations(options.compare, options.genes, rule).labels
        say(label_agreement(labels, other, options.genes).to_string(index=False))
    write_sheet(wide_labels(labels, options.genes), options.out)
    say(f"{options.out}: {labels['patient_id'].nunique()} patients, {', '.join(options.genes)}")
    return OK
