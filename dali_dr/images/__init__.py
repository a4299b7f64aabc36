"""Whether an image may enter a data set: the decoder that training uses shows it as Pillow does. Mending, converting."""
