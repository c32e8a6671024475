"""Published features against all that can go wrong on the way: the fault matrix of downloads, with Git's hashes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pandas as pd
import pytest

from deeplrhe_utils.acquisition.services.download import TransferOptions
from deeplrhe_utils.acquisition.services.web import Patience, Service
from deeplrhe_utils.core.errors import ParameterError, RunError
from deeplrhe_utils.running.jobs import download as features
from tests.faults.download_faults import CASES, SIZE, TIMEOUT_S, Case
from tests.stand_ins.gdc import GdcStandIn, offered

QUICK = Patience(attempts=4, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=TIMEOUT_S)
NAMES = [f"TCGA-05-400{i}-01Z-00-DX1.{i:08d}-aaaa-4aaa-8aaa-{i:012d}.pt" for i in range(2)]


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def service(tmp_path, monkeypatch):
    files = [offered(name, random.Random(i).randbytes(SIZE)) for i, name in enumerate(NAMES)]
    for file, name in zip(files, NAMES, strict=True):
        object.__setattr__(file, "file_id", name.split(".")[1])
    rows = [(f.file_name, git_hash(f.content), len(f.content)) for f in files]
    pd.DataFrame(rows, columns=["filename", "sha1", "size"]).to_csv(tmp_path / "pinned.csv", index=False)
    one = features.PublishedFeatures("two slides", "a licence", "data/{id}", str(tmp_path / "pinned.csv"))
    monkeypatch.setitem(features.PUBLISHED, "ours", one)
    with GdcStandIn(files) as stand_in:
        yield stand_in


def fetch(service: GdcStandIn, folder: Path) -> Path:
    how = {"accepted": True, "patience": QUICK, "say": lambda _: None}
    return features.fetch_features("ours", folder, service.url, TransferOptions(progress_s=0), **how)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name} ({c.manner})")
def test_features_survive_the_faults_of_a_service(case: Case, service, tmp_path):
    victim, other = service.files
    service.faults.append(case.on(victim.file_id))
    if case.outcome == "failed" and "says that the MD5" not in case.said:
        with pytest.raises(RunError, match=r"1 of 2 files could not be fetched.*DX1"):
            fetch(service, tmp_path / "here")
        service.faults.clear()
    folder = fetch(service, tmp_path / "here")
    found = {p.name: p.read_bytes() for p in folder.rglob("*.pt") if not p.name.startswith(".")}
    assert found == {f.file_name: f.content for f in (victim, other)}
    log = len(service.log)
    fetch(service, tmp_path / "here")
    assert len(service.log) == log, "what is verified was asked for again"


def test_other_bytes_of_the_same_size_are_refused_and_a_pointer_is_no_file(service, tmp_path):
    """A branch that was rewritten, and the pointer that stands in the head of a repository with large files."""
    right = service.files[0].content
    for wrong in (bytes(len(right)), b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"):
        object.__setattr__(service.files[0], "content", wrong)
        with pytest.raises(RunError, match="1 of 2 files") as error:
            fetch(service, tmp_path / "here")
        assert "Git SHA-1" in str(error.value) or "bytes were announced" in str(error.value)
    object.__setattr__(service.files[0], "content", right)
    assert fetch(service, tmp_path / "here").is_dir()


def test_a_licence_is_shown_and_has_to_be_accepted(service, tmp_path):
    said: list[str] = []
    with pytest.raises(ParameterError, match=r"a licence.*accept_licence=true"):
        features.fetch_features("ours", tmp_path, service.url, TransferOptions())
    assert not list(tmp_path.glob("ours")) and not service.log
    features.fetch_features("ours", tmp_path, service.url, TransferOptions(), accepted=True, say=said.append)
    assert "a licence" in said[0]
    with pytest.raises(ParameterError, match="hipt-tcga-lung"):
        features.fetch_features("else", tmp_path, service.url, TransferOptions(), accepted=True)


def test_the_pinned_list_is_whole_and_its_addresses_are_of_one_commit():
    one = features.PUBLISHED["hipt-tcga-lung"]
    rows = pd.read_csv(features.REFERENCE_DATA / one.listed)
    assert len(rows) == 1008 and rows["filename"].is_unique and rows["sha1"].str.fullmatch("[0-9a-f]{40}").all()
    assert rows["size"].between(1000, 200_000).all()
    with Service("http://127.0.0.1:9", files=one.place) as service:
        place = service.place_of("x", "a b/../c.pt")
    assert place.endswith("embeddings/a%20b%2F..%2Fc.pt") and "c22f0ecf40fe6bba965e7c79d48808d1cf6a66c8" in place
