"""Graph transformers: three models of arXiv:2409.03463, their data, and training them from scratch.

Nothing here is imported when the plugin is loaded. Molecules need the package rdkit, and the published data sets
torch_geometric or ogb: `pip install 'maprobe[graphs]'`. The models themselves need torch alone.
"""

from __future__ import annotations

from maprobe.graphs.batches import GraphBatch, GraphSet
from maprobe.graphs.configs import GraphConfig
from maprobe.graphs.models import SAN, GraphiT, GraphModel, GraphTransformer, fresh_model
from maprobe.graphs.saving import load_model, save_model
from maprobe.graphs.scores import EdgeScores

__all__ = [
    "SAN",
    "EdgeScores",
    "GraphBatch",
    "GraphConfig",
    "GraphModel",
    "GraphSet",
    "GraphTransformer",
    "GraphiT",
    "fresh_model",
    "load_model",
    "save_model",
]
