"""What may be drawn (spec), drawing it (draw), the drawn parameters (views) and their Pillow replay (reference)."""
