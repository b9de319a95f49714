"""The tables of docs/models.md are those of the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from tide.contract import Contract
from tide.models import FAMILIES, Family
from tide.models.catalog import find_family
from tide.models.key_maps import KEY_MAPS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words).replace("|", "\\|") or "–"


def values(fields) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items()) or "–"


def files_row(name: str, family: Family) -> str:
    mapped = "translated" if KEY_MAPS.keys() & set(family.model_types) else "the host's"
    cells = [name, code(*family.model_types), code(family.host) if family.host else "their own", mapped]
    return f"| {' | '.join([*cells, 'yes', 'yes' if family.student else 'no', family.licence])} |"


def contract_row(name: str, family: Family) -> str:
    contract = Contract(**{"mask_id": None, "block_size": None, **family.contract})
    low, high = contract.rates
    mask = "the tokenizer's" if contract.mask_id is None else str(contract.mask_id)
    cells = [
        name,
        f"{code(family.mask_token)} {mask}",
        str(contract.block_size or "whole text"),
        contract.in_block,
        str(contract.shift),
        f"{low:g} to {high:g}",
        family.weight,
        values(family.official),
    ]
    return f"| {' | '.join(cells)} |"


def text_row(name: str, family: Family) -> str:
    end_fill = family.end_fill.replace("|", "\\|") or "–"
    return f"| {' | '.join([name, end_fill, code(*family.stops), values(family.sampler)])} |"


DIFFUSION = {name: family for name, family in FAMILIES.items() if family.contract}
ROWS = {
    "files": [files_row(name, family) for name, family in FAMILIES.items()],
    "contract": [contract_row(name, family) for name, family in DIFFUSION.items()],
    "text": [text_row(name, family) for name, family in DIFFUSION.items()],
}


@pytest.mark.parametrize("table", ROWS)
def test_the_page_agrees_with_the_catalog(table):
    """Each table has these rows, and no other row of a family."""
    assert "\n".join(ROWS[table]) + "\n\n" in PAGE.read_text()


def test_names_are_of_one_family_and_hosts_exist():
    for name, family in FAMILIES.items():
        for named in [
            *({"model_type": model_type} for model_type in family.model_types),
            *({"architectures": [architecture]} for architecture in family.architectures),
        ]:
            assert find_family({**named, **family.marks}) == name
        assert family.host is None or hasattr(transformers, family.host)
        Contract(**{"mask_id": 0, "block_size": None, **family.contract, **family.official})
    assert KEY_MAPS.keys() <= {model_type for f in FAMILIES.values() for model_type in f.model_types}
