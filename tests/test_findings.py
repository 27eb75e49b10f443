"""The findings of results/README.md: each number is what the rows give today."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("findings", ROOT / "scripts/findings.py")
findings = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(findings)
SECTION = (ROOT / "results/README.md").read_text(encoding="utf-8").partition("## Findings")[2].partition("\n## ")[0]
TEXTS = [" ".join(text.split()) for text in re.split(r"(?m)^\d+\. ", SECTION)[1:]]


def test_each_finding_has_its_numbers():
    assert len(TEXTS) == len(findings.FINDINGS)
    assert all(re.search(r"\]\([^)]+\)", text) for text in TEXTS), "a finding without a link"


@pytest.mark.parametrize(
    ("finding", "text"), list(zip(findings.FINDINGS, TEXTS, strict=True)), ids=lambda x: getattr(x, "about", "")
)
def test_a_finding_s_numbers_are_those_of_the_rows(finding, text):
    for what, value in finding.numbers().items():
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?![\d.]*\d)", text), f"{what}: the rows give {value}"
