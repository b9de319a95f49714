"""Classes of transformers that compute a family's network, under the names of its makers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

import tide.models.key_maps  # noqa: F401  registers the key maps
from tide.models.catalog import FAMILIES, REFUSED, Family, find_family

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel


def family_of(config: PretrainedConfig) -> Family:
    """The family of a configuration that `load_config` read."""
    return FAMILIES[find_family(config.to_dict()) or "autoregressive"]


def host_config(values: Mapping[str, Any]) -> PretrainedConfig:
    """Make the host's configuration from the values of a config.json.

    Raises:
        ValueError: an architecture that is unknown, not mask-based, or has a part that the host lacks.
    """
    model_type, architectures = values.get("model_type"), values.get("architectures")
    if model_type is not None and model_type in REFUSED:
        raise ValueError(f"model_type {model_type!r} is not supported: {REFUSED[model_type]}")
    name = find_family(values)
    if name is None and model_type in CONFIG_MAPPING:
        name = "autoregressive" if CONFIG_MAPPING[model_type] in MODEL_FOR_CAUSAL_LM_MAPPING else None
    if name is None:
        raise ValueError(
            f"model_type {model_type!r}; supported are {', '.join(FAMILIES)} models, the last being any "
            "causal language model of transformers. Convert the model to one of them"
        )
    family = FAMILIES[name]
    for key, only in family.host_assumes.items():
        if values.get(key, only) != only:
            raise ValueError(f"{key} is {values[key]!r}, and only {only!r} is supported for {name} models")
    known = {key: value for key, value in values.items() if key not in ("model_type", "auto_map")}
    translated = {
        ours: values[theirs] for theirs, ours in family.config_keys.items() if values.get(theirs) is not None
    }
    known = {**family.config_defaults, **known, **translated}
    known["architectures"] = list(family.architectures[:1]) or architectures
    pad = known.get("pad_token_id")
    if pad is not None and pad >= known.get("vocab_size", pad + 1):
        known["pad_token_id"] = None  # an embedding cannot have its padding row outside
    own_type = model_type if model_type in family.model_types else family.model_types[0]
    cls = CONFIG_MAPPING[model_type] if family.host is None else _classes(name, own_type)[0]
    return cls.from_dict(known)


def host_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The model class of a configuration that `load_config` read."""
    name = find_family(config.to_dict())
    if name is None or FAMILIES[name].host is None:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # type: ignore[no-any-return]
    return _classes(name, config.model_type)[1]


@cache
def _classes(name: str, model_type: str) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Subclasses of a host that keep the makers' model type, keys of config.json and architecture."""
    family = FAMILIES[name]
    host = getattr(transformers, family.host or "")

    def to_dict(self: PretrainedConfig) -> dict[str, Any]:
        values: dict[str, Any] = host.config_class.to_dict(self)
        # transformers moves these into rope_parameters, where the makers' code does not look.
        rope = values.get("rope_parameters") or {}
        values |= {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        return values | {theirs: values[ours] for theirs, ours in family.config_keys.items()}

    architecture = family.architectures[0]
    config_class = type(
        f"{architecture}Config",
        (host.config_class,),
        {"__module__": __name__, "model_type": model_type, "to_dict": to_dict},
    )
    # transformers searches the source of a class's module for a decorator to decide this.
    can_set = classmethod(lambda cls: host._can_set_experts_implementation())
    model_class = type(
        architecture,
        (host,),
        {
            "__module__": __name__,
            "config_class": config_class,
            "_can_set_experts_implementation": can_set,
        },
    )
    return config_class, model_class
