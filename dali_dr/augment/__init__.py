"""What may be drawn (spec, operations), drawing it (draw, fresh), what was drawn (views), its Pillow replay (reference)."""
