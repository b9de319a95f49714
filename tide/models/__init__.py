"""Models: families, loading, contracts, and forward passes that stop before the head."""

from tide.models.attention import set_attention
from tide.models.catalog import FAMILIES, Family
from tide.models.contracts import contract_of, record_contract
from tide.models.conversion import Conversion, convert_model
from tide.models.export import Export, export_model
from tide.models.forward import DiffusionModel, output_head, run
from tide.models.loading import check_weights, load_config, load_model, without_progress_bars
from tide.models.tokenizers import load_tokenizer, mask_remedy

__all__ = [
    "FAMILIES",
    "Conversion",
    "DiffusionModel",
    "Export",
    "Family",
    "check_weights",
    "contract_of",
    "convert_model",
    "export_model",
    "load_config",
    "load_model",
    "load_tokenizer",
    "mask_remedy",
    "output_head",
    "record_contract",
    "run",
    "set_attention",
    "without_progress_bars",
]
