"""Our own recipes, brought in through the very hooks that other plugins use."""

from __future__ import annotations

from collections.abc import Iterable

from maprobe.architectures import ARCHITECTURES
from maprobe.corpora import CORPORA
from maprobe.expectations import OPERATORS
from maprobe.interventions.attention_window import ATTENTION_WINDOW
from maprobe.interventions.massive import MASSIVE_ENTRIES
from maprobe.interventions.massive_edges import MASSIVE_EDGES
from maprobe.interventions.massive_weights import MASSIVE_WEIGHTS_OFF
from maprobe.interventions.noise import NOISE
from maprobe.interventions.registers import REGISTERS
from maprobe.interventions.super_weight import SUPER_WEIGHT
from maprobe.interventions.untrained import UNTRAINED
from maprobe.measurements.accuracy import ACCURACY
from maprobe.measurements.attention import CONCENTRATION
from maprobe.measurements.attention_map import MAP
from maprobe.measurements.carriers import CARRIERS
from maprobe.measurements.classification import CLASSIFICATION
from maprobe.measurements.constancy import CONSTANCY
from maprobe.measurements.density import DENSITY
from maprobe.measurements.edge_distribution import EDGE_DISTRIBUTION
from maprobe.measurements.edge_entries import EDGE_MASSIVE
from maprobe.measurements.edge_kinds import EDGE_KINDS
from maprobe.measurements.edge_ratios import EDGE_RATIOS
from maprobe.measurements.features import FEATURES
from maprobe.measurements.finite import FINITE
from maprobe.measurements.image_tokens import IMAGE_TOKENS
from maprobe.measurements.implicit_bias import BIAS
from maprobe.measurements.landscape import LANDSCAPE
from maprobe.measurements.layerwise import LAYERWISE
from maprobe.measurements.loss import OWN_LOSS
from maprobe.measurements.magnitude import MAGNITUDE
from maprobe.measurements.massive import MASSIVE
from maprobe.measurements.massive_weights import MASSIVE_WEIGHTS
from maprobe.measurements.normalisation import NORMS
from maprobe.measurements.outliers import OUTLIERS
from maprobe.measurements.perplexity import PERPLEXITY
from maprobe.measurements.published import PUBLISHED
from maprobe.measurements.published_weights import PUBLISHED_WEIGHTS
from maprobe.measurements.registers import REGISTER_MEANS
from maprobe.measurements.relatedness import RELATEDNESS
from maprobe.measurements.similarity import SIMILARITY
from maprobe.measurements.sinks import SINK
from maprobe.measurements.super_weights import SUPER_WEIGHTS
from maprobe.measurements.token_norms import TOKEN_NORMS
from maprobe.measurements.token_trace import TOKEN_TRACE
from maprobe.recipes import (
    Architecture,
    Corpus,
    InterventionRecipe,
    MeasurementRecipe,
    Operator,
    Renderer,
)
from maprobe.registry import Registry
from maprobe.reporting.formats import RENDERERS

__all__ = ["builtin_registry"]


def pytest_maprobe_measurements() -> Iterable[MeasurementRecipe]:
    """Bring our measurements."""
    return (
        MAGNITUDE,
        MASSIVE,
        LAYERWISE,
        LANDSCAPE,
        CARRIERS,
        CONSTANCY,
        OUTLIERS,
        PERPLEXITY,
        ACCURACY,
        CONCENTRATION,
        SINK,
        NORMS,
        BIAS,
        MAP,
        SUPER_WEIGHTS,
        TOKEN_TRACE,
        MASSIVE_WEIGHTS,
        FINITE,
        PUBLISHED,
        PUBLISHED_WEIGHTS,
        IMAGE_TOKENS,
        TOKEN_NORMS,
        REGISTER_MEANS,
        FEATURES,
        CLASSIFICATION,
        DENSITY,
        SIMILARITY,
        RELATEDNESS,
        OWN_LOSS,
        EDGE_RATIOS,
        EDGE_DISTRIBUTION,
        EDGE_KINDS,
        EDGE_MASSIVE,
    )


def pytest_maprobe_interventions() -> Iterable[InterventionRecipe]:
    """Bring our interventions."""
    return (
        MASSIVE_ENTRIES,
        SUPER_WEIGHT,
        MASSIVE_WEIGHTS_OFF,
        ATTENTION_WINDOW,
        REGISTERS,
        UNTRAINED,
        MASSIVE_EDGES,
        NOISE,
    )


def pytest_maprobe_expectations() -> Iterable[Operator]:
    """Bring our operators."""
    return OPERATORS


def pytest_maprobe_architectures() -> Iterable[Architecture]:
    """Bring our rows for families whose parts cannot be found by their roles."""
    return ARCHITECTURES


def pytest_maprobe_inputs() -> Iterable[Corpus]:
    """Bring our corpora."""
    return CORPORA


def pytest_maprobe_report_renderers() -> Iterable[Renderer]:
    """Bring our report formats."""
    return RENDERERS


def builtin_registry() -> Registry:
    """Return a registry of our own recipes alone, for use without pytest."""
    registry = Registry()
    for bring in (
        pytest_maprobe_measurements,
        pytest_maprobe_interventions,
        pytest_maprobe_expectations,
        pytest_maprobe_architectures,
        pytest_maprobe_inputs,
        pytest_maprobe_report_renderers,
    ):
        registry.add(bring(), plugin="maprobe")
    registry.check()
    return registry
