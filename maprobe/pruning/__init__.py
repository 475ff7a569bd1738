"""Setting weights to zero: by Wanda, uniformly or by the per-layer rule of arXiv:2405.17799."""
