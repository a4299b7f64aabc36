"""The training loader: options → plan (which sampler) → graph (DALI's pipeline) → feed → present → iterator."""
