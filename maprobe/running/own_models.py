"""Models that Python code brings: it is imported and run, if the user allows that, and what it gives is checked."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from maprobe.errors import CheckpointError, did_you_mean
from maprobe.facts import FACTS, CheckpointFacts
from maprobe.modalities import brings_inputs
from maprobe.python_models import PythonModel
from maprobe.running.checkpoints import LoadedCheckpoint, facts_held, held, provenance_of, reader_held
from maprobe.running.digests import config_digest, parameters_digest
from maprobe.running.discovery import longest_run
from maprobe.running.own_sites import named_paths
from maprobe.running.placement import check_options, device_of
from maprobe.running.traits import facts_of, loaded_dtype

if TYPE_CHECKING:
    from maprobe.progress import Progress
    from maprobe.references import CheckpointReference, LoadOptions
    from maprobe.running.images import ImageReader
    from maprobe.running.own_inputs import InputSets

__all__ = ["PythonSource", "facts_of_own", "facts_stated", "held_own", "made", "on_device"]


@dataclass(slots=True, kw_only=True)
class PythonSource:
    """A checkpoint that a function of a Python module makes.

    Attributes:
        reference: what the user wrote.
        options: how it is to be loaded.
        facts: what the model, or its code, tells of itself.
        tokenizer: of a model of token ids, else None.
        own: the inputs that it brings; empty for a model of token ids, or of images.
        reader: of a model of images, else None.
    """

    reference: CheckpointReference
    options: LoadOptions
    facts: CheckpointFacts
    tokenizer: Any
    own: InputSets
    reader: ImageReader | None = None
    _model: PythonModel | None = field(default=None, repr=False)

    @classmethod
    def open(cls, reference: CheckpointReference, options: LoadOptions) -> PythonSource:
        """Import the module, call the function, and read what is to be known of the model.

        Raises:
            CheckpointError: it may not be run, it fails, or it gives something else than a model.
        """
        check_options(options)
        model = made(reference, options)
        facts = facts_of_own(model, label=reference.label, reference=reference.text)
        images = facts["modality"] == "image"
        tokenizer = None if brings_inputs(facts) or images else model.tokenizer
        return cls(
            reference=reference,
            options=options,
            facts=facts,
            tokenizer=tokenizer,
            own=model.input_sets,
            reader=reader_held(model.module, model.tokenizer, reference.label) if images else None,
            _model=model,
        )

    def load(self, progress: Progress) -> LoadedCheckpoint:
        """Return the model on its device.

        It is not held here any longer, so that no more than one checkpoint is in memory; another call makes it anew.
        """
        del progress
        model = self._model or made(self.reference, self.options)
        self._model = None
        return on_device(model, self.facts, self.options)


def made(reference: CheckpointReference, options: LoadOptions) -> PythonModel:
    """Import the module that a reference names and return what its function makes.

    Raises:
        CheckpointError: it may not be run, cannot be imported, fails, or gives something else.
    """
    text, module, factory = reference.text, reference.location, reference.member
    if not options.allow_python:
        raise CheckpointError(
            f"{text} would import and run the module {module}; pass --maprobe-allow-python if you trust it"
        )
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise CheckpointError(
                f"{text}: there is no module {error.name!r}; install it, or put its folder on the path, by "
                f"`pythonpath = .` in the pytest configuration or by the variable PYTHONPATH"
            ) from None
        raise CheckpointError(f"{text}: importing {module} failed: {_told(error)}") from error
    except Exception as error:
        raise CheckpointError(f"{text}: importing {module} failed: {_told(error)}") from error
    function = getattr(imported, factory, None)
    if not callable(function):
        near = did_you_mean(factory, [name for name in vars(imported) if callable(vars(imported)[name])])
        raise CheckpointError(f"{text}: {module} has no function {factory!r}{near}")
    try:
        given = function(reference.argument) if reference.argument else function()
    except Exception as error:
        raise CheckpointError(f"{text}: {factory} failed: {_told(error)}") from error
    if isinstance(given, nn.Module):
        given = PythonModel(module=given)
    if not isinstance(given, PythonModel) or not isinstance(given.module, nn.Module):
        what = type(given.module if isinstance(given, PythonModel) else given).__name__
        raise CheckpointError(
            f"{text}: {factory} returned {what}; allowed: a torch module, or maprobe.PythonModel(module=..., "
            f"inputs=...)"
        )
    return given


def facts_of_own(model: PythonModel, *, label: str, reference: str) -> CheckpointFacts:
    """Return the facts of a model: those its code gives, and what can be read off it.

    Raises:
        CheckpointError: the code names an unknown fact, or a modality that does not go with its inputs.
        DiscoveryError: it names a site or a module that there is not.
    """
    if model.inputs is None:
        plain = dict(facts_held(model.module, model.tokenizer, label).values)
    else:
        plain = {"architectures": [type(model.module).__name__], "dtype": loaded_dtype(model.module)}
        if "num_hidden_layers" not in model.facts:
            named = named_paths(model.sites, model.module)
            plain["num_hidden_layers"] = len(named.get("block.out") or longest_run(model.module))
    facts = facts_stated({"modality": "own", **plain, **model.facts}, label=label, reference=reference)
    if brings_inputs(facts) != (model.inputs is not None):
        told = "brings inputs" if model.inputs is not None else "brings no inputs"
        raise CheckpointError(
            f"{reference}: the model's code {told}, and gives the modality {facts['modality']!r}; allowed: own or "
            f"graph for a model that brings its inputs, and none of the two for any other"
        )
    return facts


def facts_stated(stated: Mapping[str, Any], *, label: str, reference: str) -> CheckpointFacts:
    """Return the facts that code or a config states of a model that is none of transformers; the others are nought.

    Raises:
        CheckpointError: one of them is no fact.
    """
    odd = next((name for name in stated if name not in FACTS), "")
    if odd:
        raise CheckpointError(
            f"{reference}: the model's code gives a fact {odd!r}{did_you_mean(odd, FACTS)}; allowed: {', '.join(FACTS)}"
        )
    nought = facts_of(None, None, label=label, reference=reference, causal=False, dtype="float32")
    return CheckpointFacts(label=label, reference=reference, values={**nought.values, **stated})


def on_device(model: PythonModel, facts: CheckpointFacts, options: LoadOptions) -> LoadedCheckpoint:
    """Return a model that Python code made as a checkpoint, in eval mode on its device.

    Raises:
        CheckpointError: an option is for transformers' checkpoints alone.
    """
    for option, given in (("dtype", options.dtype not in ("auto", facts["dtype"])), ("device-map", options.device_map)):
        if given:
            raise CheckpointError(
                f"--maprobe-{option} is for checkpoints of transformers, and {facts.label} is made by Python code; "
                f"leave it out, and let the code see to it"
            )
    model.module.to(device_of(options.device)).eval()
    return held_own(model, facts)


def held_own(model: PythonModel, facts: CheckpointFacts) -> LoadedCheckpoint:
    """Return a model that Python code made as a checkpoint, as it is: the module itself is not changed."""
    module = model.module
    if model.inputs is None:
        loaded = held(module, model.tokenizer, facts.label)
        return LoadedCheckpoint(
            model=module, tokenizer=loaded.tokenizer, facts=facts, provenance=loaded.provenance, reader=loaded.reader
        )
    provenance = provenance_of(
        module,
        None,
        facts,
        resolved=model.resolved or f"Python ({type(module).__module__}.{type(module).__qualname__})",
        config_digest=config_digest(model.config) if model.config else "",
        weights=model.weights_digest or parameters_digest(module),
    )
    return LoadedCheckpoint(model=module, tokenizer=None, facts=facts, provenance=provenance, own=model)


def _told(error: BaseException) -> str:
    """Return an error in one line, with the place in the code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    first = (str(error).strip().splitlines() or ["no message"])[0]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{place}"
