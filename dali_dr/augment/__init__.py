"""What may be drawn (spec), drawing it (draw), what was drawn (views) and its Pillow replay (reference)."""
